"""CosyVoice 1's flow compared with recorded outputs of the original, eager, scripted and exported."""

import math
from functools import cache

import pytest
import torch
from torch import nn

from tasks.models.cosyvoice.estimator.time_embedding import SinusoidalTime
from tasks.models.cosyvoice.folder import load_component, load_part
from tests.support import exporting
from tests.support.flow_cases import LENGTHS, loss_and_gradients, total_norm
from tests.support.folders import component, config_of, weights_of
from tests.support.golden_cases import golden_case, golden_names
from tests.support.replay import replay_draws, worst

FAMILY = "cosyvoice1"
# Files are exported by torchscript, the quicker exporter; tests of the workflow compare those of the default exporter.


@cache
def module_of(name: str) -> nn.Module:
    return load_component(component(name), config=config_of(FAMILY), weights=weights_of(FAMILY))


@cache
def scripted_encoder() -> torch.jit.ScriptModule:
    return torch.jit.freeze(torch.jit.script(module_of("flow.encoder")), preserved_attrs=["forward_chunk"])


@pytest.fixture(scope="module")
def flow():
    return load_part("flow", config=config_of(FAMILY), weights=weights_of(FAMILY))


@pytest.mark.parametrize("encoder", [lambda: module_of("flow.encoder"), scripted_encoder], ids=["eager", "scripted"])
@torch.no_grad()
def test_encoder_gives_the_recorded_hidden_states_and_mask(encoder):
    case = golden_case(FAMILY, "flow_encoder")
    hidden, mask = encoder()(**case.inputs)
    assert worst(hidden, case.outputs["ys"]) <= 1e-5
    assert torch.equal(mask, case.outputs["masks"])


@torch.no_grad()
def test_length_regulator_gives_the_recorded_frames():
    case = golden_case(FAMILY, "lr_forward")
    stretched, lengths = module_of("flow.length_regulator")(**case.inputs)
    assert worst(stretched, case.outputs["y"]) <= 1e-5
    assert torch.equal(lengths, case.inputs["ylens"])


@pytest.mark.parametrize("name", golden_names(FAMILY, "lr_inf"))
@torch.no_grad()
def test_length_regulator_gives_the_recorded_frames_at_inference(name):
    case = golden_case(FAMILY, name)
    frames = case.flags["mel_len1"], case.flags["mel_len2"], case.flags["input_frame_rate"]
    stretched, total = module_of("flow.length_regulator").inference(case.inputs["x1"], case.inputs["x2"], *frames)
    assert worst(stretched, case.outputs["y"]) <= 1e-5
    assert total == frames[0] + frames[1]


def test_time_embedding_is_the_recorded_one():
    case = golden_case(FAMILY, "est_time_embeddings")
    embedded = SinusoidalTime(case.outputs["y"].size(1))(case.inputs["t"], torch.float32)
    assert worst(embedded, case.outputs["y"]) <= 1e-5


@pytest.mark.parametrize("name", golden_names(FAMILY, "est_L"))
@torch.no_grad()
def test_estimator_gives_the_recorded_velocity(name):
    case = golden_case(FAMILY, name)
    assert worst(module_of("flow.decoder.estimator")(**case.inputs, **case.flags), case.outputs["y"]) <= 1e-5


def test_exported_estimator_equals_eager_at_every_length_and_mask(exports):
    estimator, path = module_of("flow.decoder.estimator"), exporting.estimator_file(exports, FAMILY)
    differences = {
        frames: exporting.worst_at(estimator, path, exporting.estimator_inputs(frames)) for frames in exporting.LENGTHS
    }
    assert max(differences.values()) <= 2e-5, differences


@torch.no_grad()
def test_solver_gives_the_recorded_mel_and_cache(flow, monkeypatch):
    case = golden_case(FAMILY, "cfm")
    left = replay_draws(monkeypatch, case.draws)
    mel, cached = flow.decoder(**case.inputs, **case.flags, n_timesteps=10, cache=torch.zeros(1, 80, 0, 2))
    assert list(left) == []
    assert worst(mel, case.outputs["mel"]) <= 1e-4
    assert worst(cached, case.outputs["cache"]) <= 1e-5


@pytest.mark.parametrize("name", golden_names(FAMILY, "flow_inference"))
def test_inference_gives_the_recorded_mel_and_cache(flow, name, monkeypatch):
    case = golden_case(FAMILY, name)
    replay_draws(monkeypatch, case.draws)
    lengths = {f"{key}_len": torch.tensor([case.inputs[key].size(1)], dtype=torch.int32) for key in LENGTHS}
    mel, cached = flow.inference(**case.inputs, **lengths)
    assert worst(mel, case.outputs["mel"]) <= 1e-4
    assert worst(cached, case.outputs["flow_cache"]) <= 1e-5


def test_loss_and_every_gradient_are_the_recorded_ones(flow, monkeypatch):
    case = golden_case(FAMILY, "loss_flow")
    loss, norms = loss_and_gradients(flow, FAMILY, "loss_flow", "loss_llm", monkeypatch)
    assert math.isclose(loss, case.outputs["loss"].item(), rel_tol=1e-4)
    assert math.isclose(total_norm(norms), case.flags["total_grad_norm"], rel_tol=1e-4)
    assert norms == pytest.approx(case.flags["grad_norms"], rel=1e-3, abs=1e-6)


def test_exported_encoder_equals_eager_at_every_length(exports):
    encoder, path = module_of("flow.encoder"), exporting.encoder_file(exports, FAMILY)
    inputs = [exporting.encoder_inputs(encoder, tokens) for tokens in exporting.LENGTHS]
    assert max(exporting.worst_at(encoder, path, each) for each in inputs) <= 2e-5


def test_a_scripted_encoder_holds_its_weights_once_and_no_table_of_positions(tmp_path):
    scripted_encoder().save(tmp_path / "encoder.zip")
    weights = sum(value.numel() * value.element_size() for value in module_of("flow.encoder").state_dict().values())
    assert (tmp_path / "encoder.zip").stat().st_size <= 1.6 * weights
