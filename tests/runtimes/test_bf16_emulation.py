"""A bf16 file on a CPU: every operator's result is the fp32 one, rounded to the nearest bf16, to even between two."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from tasks.runtimes.onnxruntime_.session import EMULATED, OnnxRuntimeSession, open_artifact
from tests.support.errors import error_of

BF16, FLOAT = TensorProto.BFLOAT16, TensorProto.FLOAT
WEIGHT = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).bfloat16()


def bf16_file(path: Path, nodes: list[onnx.NodeProto], *, given: int = BF16, made: int = BF16) -> Path:
    """x -> y of free shapes, with WEIGHT as w."""
    ends = [helper.make_tensor_value_info(name, kind, ["a", "b"]) for name, kind in (("x", given), ("y", made))]
    bits = WEIGHT.view(torch.uint16).numpy().tobytes()
    weight = helper.make_tensor("w", BF16, list(WEIGHT.shape), bits, raw=True)
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def layer() -> list[onnx.NodeProto]:
    """tanh(x @ w), then times itself and plus itself."""
    return [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["a"]),
        helper.make_node("Mul", ["a", "h"], ["m"]),
        helper.make_node("Add", ["m", "a"], ["y"]),
    ]


def opened(path: Path) -> OnnxRuntimeSession:
    return open_artifact(path, device="cpu")


def by_torch(x: Tensor) -> Tensor:
    """The layer in PyTorch's own bf16."""
    hidden = (x.float() @ WEIGHT.float()).bfloat16()
    return hidden.tanh() * hidden + hidden.tanh()


def test_a_layer_is_rounded_after_each_operator_as_pytorch_does(tmp_path):
    x = torch.randn(500, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    session = opened(bf16_file(tmp_path / "layer.onnx", layer()))
    (found,) = session({"x": x})
    assert found.dtype == torch.bfloat16
    expected, once = by_torch(x), x.float() @ WEIGHT.float()
    assert (found == expected).float().mean() > 0.995  # a tanh that falls between two may go either way
    assert not torch.equal(found, (once.tanh() * once + once.tanh()).bfloat16())


def test_the_session_says_that_bf16_is_emulated(tmp_path):
    assert opened(bf16_file(tmp_path / "layer.onnx", layer())).provider == f"CPUExecutionProvider{EMULATED}"


def test_rounding_is_to_the_nearest_and_to_even_between_two(tmp_path):
    """All kinds of fp32 numbers, ties among them, through the casts that the emulation is made of."""
    to_bf16 = helper.make_node("Cast", ["x"], ["y"], to=BF16)
    path = bf16_file(tmp_path / "cast.onnx", [to_bf16], given=FLOAT)
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    bits[::4] = bits[::4] & 0xFFFF0000 | 0x8000
    x = torch.from_numpy(bits.view(np.float32)).reshape(1, -1)
    x = x[x.isfinite()].reshape(1, -1)
    assert torch.equal(opened(path)({"x": x})[0], x.bfloat16())


def test_an_intermediate_result_is_rounded_although_only_fp32_leaves_the_graph(tmp_path):
    nodes = [helper.make_node("Mul", ["x", "x"], ["m"]), helper.make_node("Cast", ["m"], ["y"], to=FLOAT)]
    x = torch.linspace(1, 2, 100).bfloat16().reshape(1, -1)
    assert torch.equal(opened(bf16_file(tmp_path / "square.onnx", nodes, made=FLOAT))({"x": x})[0], (x * x).float())


def test_an_fp32_number_is_rounded_where_the_graph_casts_it(tmp_path):
    nodes = [
        helper.make_node("Cast", ["x"], ["n"], to=BF16),
        helper.make_node("MatMul", ["n", "w"], ["h"]),
        helper.make_node("Cast", ["h"], ["y"], to=FLOAT),
    ]
    x = torch.eye(8) * 1.00390625
    (found,) = opened(bf16_file(tmp_path / "cast.onnx", nodes, given=FLOAT, made=FLOAT))({"x": x})
    assert torch.equal(found, WEIGHT.float())


def test_a_number_handed_on_as_it_is_may_be_an_output(tmp_path):
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["m"]),
        helper.make_node("Transpose", ["m"], ["y"], perm=[1, 0]),
    ]
    x = torch.randn(3, 4).bfloat16()
    assert torch.equal(opened(bf16_file(tmp_path / "turn.onnx", nodes))({"x": x})[0], (x * x).T)


def test_an_input_may_be_an_output_and_a_file_without_arithmetic_is_run_as_it_is(tmp_path):
    session = opened(bf16_file(tmp_path / "same.onnx", [helper.make_node("Identity", ["x"], ["y"])]))
    x = torch.randn(3, 4).bfloat16()
    assert torch.equal(session({"x": x})[0], x)
    assert session.provider == "CPUExecutionProvider"


def test_weights_beside_the_file_are_emulated(tmp_path):
    path = bf16_file(tmp_path / "layer.onnx", layer())
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights", size_threshold=0)
    x = torch.randn(5, 8).bfloat16()
    assert (opened(path)({"x": x})[0] - by_torch(x)).abs().max() <= 2**-7


def test_a_graph_with_branches_is_refused(tmp_path):
    branch = helper.make_graph(
        [helper.make_node("Mul", ["x", "x"], ["b"])], "b", [], [helper.make_tensor_value_info("b", BF16, None)]
    )
    nodes = [
        helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True])),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]
    path = bf16_file(tmp_path / "branch.onnx", nodes)
    assert error_of(opened, path).where == str(path)


def test_an_operator_without_a_kernel_in_another_format_is_reported(tmp_path):
    ends = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["a"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Erf", ["x"], ["y"])], "small", ends[:1], ends[1:])
    path = tmp_path / "double.onnx"
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]), path)
    error = error_of(opened, path)
    assert error.where == str(path)
    assert "Erf" in error.value
