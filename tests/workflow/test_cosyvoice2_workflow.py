"""What CosyVoice 2's folder becomes beside the estimator, through doit: the recorded cases again."""

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor

from tests.support.generations import QUICK_AND_THOROUGH, generation
from tests.support.golden_cases import golden_case
from tests.support.replay import worst

FAMILY = "cosyvoice2"
TOLERANCE = 2e-4


@pytest.fixture(scope="session", params=QUICK_AND_THOROUGH)
def artifacts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vocoder and flow encoder as ONNX, verified."""
    return generation(tmp_path_factory, FAMILY, request.param).whole


def called(path: Path, **inputs: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    arrays = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return [torch.from_numpy(array) for array in arrays]


def test_onnx_vocoder_gives_the_recorded_waveform(artifacts: Path) -> None:
    case = golden_case(FAMILY, "hift_decode")
    mel, source = case.inputs["mel"], case.inputs["s"]
    (found,) = called(artifacts / "hift.fp32.onnx", mel=mel, source=source.view(mel.size(0), mel.size(2), -1))
    assert worst(found, case.outputs["wav"]) <= TOLERANCE


def test_onnx_encoder_gives_the_recorded_hidden_states_and_mask(artifacts: Path) -> None:
    case = golden_case(FAMILY, "flow_encoder_full")
    inputs = {name: case.inputs[name] for name in ("xs", "xs_lens")}
    hidden, mask = called(artifacts / "flow.encoder.fp32.onnx", **inputs)
    assert worst(hidden, case.outputs["ys"]) <= TOLERANCE
    assert torch.equal(mask, case.outputs["masks"])
