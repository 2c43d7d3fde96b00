"""CosyVoice 3's flow compared with recorded outputs of the original, eager and exported."""

import math
from functools import cache

import pytest
import torch
from torch import nn

from tasks.models.cosyvoice.estimator.dit import DiT
from tasks.models.cosyvoice.estimator.dit_blocks import Rotation
from tasks.models.cosyvoice.folder import load_component, load_part
from tests.support import exporting
from tests.support.flow_cases import loss_and_gradients, run_inference, total_norm
from tests.support.folders import component, config_of, weights_of
from tests.support.golden_cases import golden_case, golden_names
from tests.support.onnx_jobs import QUICK_EXPORTER
from tests.support.replay import worst

FAMILY = "cosyvoice3"
# Files are exported by torchscript, the quicker exporter; tests of the workflow compare those of the default exporter.
STREAMING = "model.components.flow_decoder_estimator.options.streaming"


def load(name: str) -> nn.Module:
    return load_component(component(name), config=config_of(FAMILY), weights=weights_of(FAMILY))


module_of = cache(load)


@pytest.fixture(scope="module")
def flow():
    return load_part("flow", config=config_of(FAMILY), weights=weights_of(FAMILY))


@pytest.mark.parametrize("name", golden_names(FAMILY, "pre_lookahead"))
@torch.no_grad()
def test_lookahead_layer_gives_the_recorded_embeddings(name):
    case = golden_case(FAMILY, name)
    layer = module_of("flow.pre_lookahead_layer")
    arguments = {"inputs": case.inputs["xs"], "context": case.inputs.get("context")}
    for run in (layer, torch.jit.script(layer)):
        assert worst(run(**arguments), case.outputs["ys"]) <= 1e-5


@torch.no_grad()
def test_time_and_input_embeddings_are_the_recorded_ones():
    estimator = module_of("flow.decoder.estimator")
    for case, layer in (("dit_time_embed", estimator.time_embed), ("dit_input_embed", estimator.input_embed)):
        recorded = golden_case(FAMILY, case)
        assert worst(layer(**recorded.inputs), recorded.outputs["y"]) <= 1e-5


@torch.no_grad()
def test_first_block_and_its_rotation_are_the_recorded_ones():
    estimator, expected = module_of("flow.decoder.estimator"), golden_case(FAMILY, "dit_block0").outputs
    hidden, time = (golden_case(FAMILY, name).outputs["y"] for name in ("dit_input_embed", "dit_time_embed"))
    angles = estimator.rotary_embed(hidden.size(1))
    assert worst(angles, expected["rope_freqs"]) <= 1e-6
    nothing_masked, all_valid = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1)
    block = estimator.transformer_blocks[0]
    assert worst(block(hidden, time, nothing_masked, all_valid, Rotation(angles, hidden.dtype)), expected["y"]) <= 1e-5


def test_only_the_first_head_is_rotated():
    angles = module_of("flow.decoder.estimator").rotary_embed(7)
    x = torch.randn(2, 7, 64, generator=torch.Generator().manual_seed(0))
    rotated = Rotation(angles, x.dtype)(x)
    assert torch.equal(rotated[:, :, 16:], x[:, :, 16:])
    assert torch.equal(rotated[:, 0], x[:, 0])
    assert not torch.allclose(rotated[:, 1:, :16], x[:, 1:, :16])


@pytest.mark.parametrize("name", golden_names(FAMILY, "est_L"))
@torch.no_grad()
def test_estimator_gives_the_recorded_velocity(name):
    case = golden_case(FAMILY, name)
    assert worst(module_of("flow.decoder.estimator")(**case.inputs, **case.flags), case.outputs["y"]) <= 5e-5


@pytest.mark.parametrize("name", ["est_L30_head0_full", "est_L30_head0_stream", "est_L30_tail0_full"])
@torch.no_grad()
def test_estimator_in_half_precision_has_no_nan_under_masks(name):
    case = golden_case(FAMILY, name)
    halves = {role: value.half() for role, value in case.inputs.items()}
    velocity = load("flow.decoder.estimator").half()(**halves, **case.flags)
    assert velocity.dtype == torch.float16
    assert worst(velocity, case.outputs["y"]) <= 3e-2 * case.outputs["y"].abs().max()


def test_half_precision_keeps_the_rotation_exact():
    exact, half = load("flow.decoder.estimator"), load("flow.decoder.estimator").half()
    assert torch.equal(half.rotary_embed(3000), exact.rotary_embed(3000))


@pytest.mark.parametrize("streaming", [False, True], ids=["full", "streaming"])
def test_exported_estimator_equals_eager_at_every_length_and_mask(exports, streaming):
    estimator = exporting.Bound(module_of("flow.decoder.estimator"), streaming=streaming)
    path = exporting.estimator_file(exports, FAMILY, f"{STREAMING}={streaming}")
    differences = {
        frames: exporting.worst_at(estimator, path, exporting.estimator_inputs(frames)) for frames in exporting.LENGTHS
    }
    assert max(differences.values()) <= 5e-5, differences


@QUICK_EXPORTER
def test_estimator_exports_with_a_dynamic_batch(exports, exporter):
    words = ("onnx.dynamic_batch=true", "model.axes.batch.max=8")
    estimator = module_of("flow.decoder.estimator")
    path = exporting.estimator_file(exports, FAMILY, *words, exporter=exporter)
    assert exporting.worst_at(estimator, path, exporting.estimator_inputs(23, batch=6)) <= 5e-5


@pytest.mark.parametrize("name", golden_names(FAMILY, "cfm"))
@torch.no_grad()
def test_solver_gives_the_recorded_mel(flow, name):
    case = golden_case(FAMILY, name)
    assert worst(flow.decoder(**case.inputs, n_timesteps=10, **case.flags), case.outputs["mel"]) <= 1e-4


@pytest.mark.parametrize("name", golden_names(FAMILY, "flow_inference"))
def test_inference_gives_the_recorded_mel(flow, name):
    assert worst(run_inference(flow, FAMILY, name), golden_case(FAMILY, name).outputs["mel"]) <= 1e-4


@pytest.mark.parametrize("name", golden_names(FAMILY, "loss_flow"))
def test_loss_and_every_gradient_are_the_recorded_ones(flow, name, monkeypatch):
    case = golden_case(FAMILY, name)
    loss, norms = loss_and_gradients(flow, FAMILY, name, "loss_llm_unistream", monkeypatch)
    assert math.isclose(loss, case.outputs["loss"].item(), rel_tol=1e-4)
    assert math.isclose(total_norm(norms), case.flags["total_grad_norm"], rel_tol=1e-4)
    assert norms == pytest.approx(case.flags["grad_norms"], rel=1e-3, abs=1e-6)


def small_estimator(**options):
    torch.manual_seed(0)
    return DiT(dim=32, depth=2, heads=2, dim_head=16, ff_mult=2, **options).eval()


@torch.no_grad()
def test_a_long_skip_connection_mixes_the_last_features_with_the_first():
    skipping, plain = small_estimator(spk_dim=80, long_skip_connection=True), small_estimator(spk_dim=80)
    assert skipping.state_dict()["long_skip_connection.weight"].shape == (32, 64)
    plain.load_state_dict(skipping.state_dict(), strict=False)
    inputs, keep, drop = exporting.estimator_inputs(9), torch.eye(32), torch.zeros(32, 32)
    skipping.long_skip_connection.weight = nn.Parameter(torch.cat([keep, drop], dim=1))
    assert worst(skipping(**inputs), plain(**inputs)) <= 1e-5
    skipping.long_skip_connection.weight = nn.Parameter(torch.cat([drop, keep], dim=1))
    plain.transformer_blocks = nn.ModuleList()
    assert worst(skipping(**inputs), plain(**inputs)) <= 1e-5


@torch.no_grad()
def test_an_estimator_without_a_speaker_width_ignores_the_speaker():
    estimator, inputs = small_estimator(), exporting.estimator_inputs(9)
    assert estimator.input_embed.proj.in_features == 240
    assert torch.equal(estimator(**inputs), estimator(**{**inputs, "spks": inputs["spks"] + 1}))


def test_the_speaker_stays_an_input_of_an_exported_estimator_that_ignores_it(tmp_path):
    estimator, path = small_estimator(long_skip_connection=True), tmp_path / "estimator.onnx"
    exporting.export(estimator, path, dynamo=True)
    assert exporting.worst_at(estimator, path, exporting.estimator_inputs(23)) <= 5e-5
