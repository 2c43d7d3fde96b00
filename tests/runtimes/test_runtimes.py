"""The engines behind one contract: they run, and say what really ran."""

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from tasks.runtimes import torchscript as torchscript_module
from tasks.runtimes.eager import PyTorchModule
from tasks.runtimes.onnxruntime_ import session as onnxruntime_session
from tests.support.errors import error_of


class Sum(nn.Module):
    """Two inputs, two outputs, one option."""

    def forward(self, a: Tensor, b: Tensor, sign: float = 1.0) -> tuple[Tensor, Tensor]:
        return a + sign * b, a * b


INPUTS = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[3.0, 5.0]])}


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "frames"]) for name in ("a", "b", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["y"])], "sum", tensors[:2], tensors[2:])
    path = tmp_path / "sum.onnx"
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def test_eager_module_runs_with_its_options_fixed():
    total, product = PyTorchModule(Sum(), options={"sign": -1.0}, device="cpu")(INPUTS)
    assert total.tolist() == [[-2.0, -3.0]]
    assert product.tolist() == [[3.0, 10.0]]


def test_torchscript_file_runs_by_input_names(tmp_path):
    torch.jit.script(Sum()).save(tmp_path / "sum.zip")
    runtime = torchscript_module.open_artifact(tmp_path / "sum.zip", device="cpu", threads=1)
    assert runtime({"b": INPUTS["b"], "a": INPUTS["a"]})[0].tolist() == [[4.0, 7.0]]
    assert runtime.provider.startswith("TorchScript")


def test_file_that_is_not_torchscript_is_a_clear_error(tmp_path):
    (tmp_path / "sum.zip").write_bytes(b"PK nonsense")
    error = error_of(torchscript_module.open_artifact, tmp_path / "sum.zip", device="cpu", threads=1)
    assert error.where == str(tmp_path / "sum.zip")


def test_onnx_file_runs_and_reports_provider_and_fixed_sizes(onnx_file):
    runtime = onnxruntime_session.open_artifact(onnx_file, device="cpu")
    assert runtime(INPUTS)[0].tolist() == [[4.0, 7.0]]
    assert runtime.provider == "CPUExecutionProvider"
    assert runtime.shapes == {"a": (1, None), "b": (1, None)}


def test_session_has_all_optimisations_and_one_thread_unless_set(onnx_file, monkeypatch):
    seen = []
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, **kw: seen.append(options) or real(path, options, **kw)
    )
    onnxruntime_session.open_artifact(onnx_file, device="cpu")
    onnxruntime_session.open_artifact(onnx_file, device="cpu", threads=2)
    assert [options.intra_op_num_threads for options in seen] == [1, 2]
    assert seen[0].graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL


class FellBack:
    """A session that was asked for CUDA and runs on the CPU."""

    def __init__(self, path: Path, options: object, *, providers: list[object]) -> None:
        assert providers[0][0] == "CUDAExecutionProvider"

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


def test_silent_fall_back_from_cuda_is_an_error(onnx_file, monkeypatch):
    monkeypatch.setattr(onnxruntime, "InferenceSession", FellBack)
    error = error_of(onnxruntime_session.open_artifact, onnx_file, device="cuda")
    assert error.value == "CPUExecutionProvider"
    assert "verify.device=cpu" in error.remedy


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("runtime", [onnxruntime_session, torchscript_module])
def test_cuda_asked_for_without_a_gpu_is_an_error(onnx_file, tmp_path, runtime):
    torch.jit.script(Sum()).save(tmp_path / "sum.zip")
    path = onnx_file if runtime is onnxruntime_session else tmp_path / "sum.zip"
    error = error_of(runtime.open_artifact, path, device="cuda", threads=1)
    assert error.where == str(path)
    assert "verify.device=cpu" in error.remedy
