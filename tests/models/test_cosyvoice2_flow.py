"""CosyVoice 2's flow compared with recorded outputs of the original, eager, scripted and exported."""

import math
from functools import cache

import onnx
import pytest
import torch
from torch import nn

from tasks.models.cosyvoice.encoder.positions import RelativePositions
from tasks.models.cosyvoice.folder import load_component, load_part
from tests.support import exporting
from tests.support.errors import error_of
from tests.support.flow_cases import loss_and_gradients, run_inference, total_norm
from tests.support.folders import component, config_of, weights_of
from tests.support.golden_cases import golden_case, golden_names, golden_tensor
from tests.support.replay import worst

FAMILY = "cosyvoice2"
ENCODER_CASES = pytest.mark.parametrize("name", golden_names(FAMILY, "flow_encoder"))
ESTIMATOR_CASES = pytest.mark.parametrize("name", golden_names(FAMILY, "est_L"))
# Files are exported by torchscript, the quicker exporter; tests of the workflow compare those of the default exporter.
STREAMING = "model.components.flow_decoder_estimator.options.streaming"


@cache
def module_of(name: str) -> nn.Module:
    return load_component(component(name), config=config_of(FAMILY), weights=weights_of(FAMILY))


@cache
def scripted_encoder() -> torch.jit.ScriptModule:
    return torch.jit.freeze(torch.jit.script(module_of("flow.encoder")))


@pytest.fixture(scope="module")
def flow():
    return load_part("flow", config=config_of(FAMILY), weights=weights_of(FAMILY))


def encoder_arguments(name):
    case = golden_case(FAMILY, name)
    lengths = torch.tensor([case.flags["xs_lens"]]) if "xs_lens" in case.flags else case.inputs["xs_lens"]
    return {**case.inputs, "xs_lens": lengths, "streaming": case.flags["streaming"]}, case.outputs


@ENCODER_CASES
@pytest.mark.parametrize("encoder", [lambda: module_of("flow.encoder"), scripted_encoder], ids=["eager", "scripted"])
@torch.no_grad()
def test_encoder_gives_the_recorded_hidden_states_and_mask(name, encoder):
    arguments, expected = encoder_arguments(name)
    hidden, mask = encoder()(**arguments)
    assert worst(hidden, expected["ys"]) <= 1e-5
    assert torch.equal(mask, expected["masks"])


@torch.no_grad()
def test_an_empty_context_is_no_context():
    arguments, _ = encoder_arguments("flow_encoder_full")
    encoder, empty = module_of("flow.encoder"), torch.zeros(0, 0, 0)
    assert torch.equal(encoder(**arguments)[0], encoder(**arguments, context=empty)[0])
    assert worst(scripted_encoder()(**arguments, context=empty)[0], encoder(**arguments)[0]) <= 1e-5


def test_the_length_of_positions_is_not_limited():
    table = RelativePositions(4)(torch.zeros(1, 1, 4), 6000)
    assert table.shape == (1, 11999, 4)
    for row, position in ((0, 5999), (5999, 0), (11998, -5999)):
        angles = torch.tensor([position, position * 0.01], dtype=torch.float64)
        expected = torch.stack((angles.sin(), angles.cos()), dim=1).flatten()
        assert worst(table[0, row], expected) <= 1e-3


@torch.no_grad()
def test_encoder_in_half_precision_stays_close():
    arguments, expected = encoder_arguments("flow_encoder_stream")
    encoder = load_component(component("flow.encoder"), config=config_of(FAMILY), weights=weights_of(FAMILY)).half()
    hidden, _ = encoder(**{**arguments, "xs": arguments["xs"].half()})
    assert hidden.dtype == torch.float16
    assert worst(hidden, expected["ys"]) <= 3e-2


@ESTIMATOR_CASES
@torch.no_grad()
def test_estimator_gives_the_recorded_velocity(name):
    case = golden_case(FAMILY, name)
    assert worst(module_of("flow.decoder.estimator")(**case.inputs, **case.flags), case.outputs["y"]) <= 1e-5


@pytest.mark.parametrize("name", ["est_L30_head0_full", "est_L30_head0_stream", "est_L30_tail0_full"])
@torch.no_grad()
def test_estimator_in_half_precision_has_no_nan_under_masks(name):
    case = golden_case(FAMILY, name)
    estimator = load_component(
        component("flow.decoder.estimator"),
        config=config_of(FAMILY),
        weights=weights_of(FAMILY),
    ).half()
    halves = {role: value.half() for role, value in case.inputs.items()}
    assert worst(estimator(**halves, **case.flags), case.outputs["y"]) <= 3e-2


@pytest.mark.parametrize("streaming", [False, True], ids=["full", "streaming"])
def test_exported_estimator_equals_eager_at_every_length_and_mask(exports, streaming):
    estimator = exporting.Bound(module_of("flow.decoder.estimator"), streaming=streaming)
    path = exporting.estimator_file(exports, FAMILY, f"{STREAMING}={streaming}")
    differences = {
        frames: exporting.worst_at(estimator, path, exporting.estimator_inputs(frames)) for frames in exporting.LENGTHS
    }
    assert max(differences.values()) <= 2e-5, differences


def test_exported_transformer_block_has_few_nodes(exports):
    model = onnx.load(exporting.estimator_file(exports, FAMILY, exporter="dynamo"))
    assert sum(node.op_type == "Softmax" for node in model.graph.node) == 3
    residual = 24 + 3 * 5  # three of them are Mish, six operators in fp32
    assert len(model.graph.node) <= 3 * 28 + 3 * residual + 60


def test_solver_noise_is_the_recorded_one_and_does_not_change_the_global_random_state(flow):
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    recorded = golden_tensor(FAMILY, "rand_noise_head")
    assert torch.equal(flow.decoder.noise[:, :, : recorded.size(2)], recorded)
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize("name", golden_names(FAMILY, "cfm"))
@torch.no_grad()
def test_solver_gives_the_recorded_mel(flow, name):
    case = golden_case(FAMILY, name)
    assert worst(flow.decoder(**case.inputs, n_timesteps=10, **case.flags), case.outputs["mel"]) <= 1e-4


def test_an_utterance_longer_than_the_noise_is_refused(flow):
    mu = torch.zeros(1, 80, 15001)
    error = error_of(flow.decoder, mu, torch.ones(1, 1, 15001), 10, spks=torch.zeros(1, 80), cond=mu)
    assert (error.where, error.value) == ("flow.decoder", "15001 frames")


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


def test_components_report_their_fixed_sizes():
    assert module_of("flow.encoder").sizes() == {"width": 48}
    assert module_of("flow.decoder.estimator").sizes() == {"mel": 80}


def test_exported_encoder_equals_eager_at_every_length(exports):
    encoder, path = module_of("flow.encoder"), exporting.encoder_file(exports, FAMILY)
    inputs = [exporting.encoder_inputs(encoder, tokens) for tokens in exporting.LENGTHS]
    assert max(exporting.worst_at(encoder, path, each) for each in inputs) <= 2e-5


def test_a_scripted_encoder_holds_its_weights_once_and_no_table_of_positions(tmp_path):
    scripted_encoder().save(tmp_path / "encoder.zip")
    weights = sum(value.numel() * value.element_size() for value in module_of("flow.encoder").state_dict().values())
    assert (tmp_path / "encoder.zip").stat().st_size <= 1.6 * weights
