"""Sums in the order of another engine: the same values, and on padding the errors that ONNX Runtime has."""

from collections.abc import Callable

import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from tasks.actions.verify.arithmetic import Widened, rounded
from tasks.actions.verify.metrics import metrics
from tasks.actions.verify.summation import LANES, lane_sum

GROUPS = 4
NORM = nn.GroupNorm(GROUPS, GROUPS, affine=False)


def snr(found: Tensor, expected: Tensor) -> float:
    return metrics(found, expected, rtol=0, atol=0).snr_db


def padded(frames: int, valid: int, *, channels: int = GROUPS) -> Tensor:
    """Noise up to `valid`, after it the same number in every frame."""
    torch.manual_seed(0)
    x = torch.randn(2, channels, frames)
    x[..., valid:] = 0.3 * torch.randn(2, channels, 1)
    return x


def in_lanes(run: Callable[[], Tensor]) -> Tensor:
    with torch.no_grad():
        return rounded(run, torch.float32, seed=0)


def by_onnxruntime(x: Tensor) -> Tensor:
    """`NORM` as it is in a file, where each group is an instance."""
    shape = [2, GROUPS, "frames"]
    graph = helper.make_graph(
        [helper.make_node("InstanceNormalization", ["x", "scale", "bias"], ["y"], epsilon=NORM.eps)],
        "norm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor("scale", TensorProto.FLOAT, [GROUPS], [1.0] * GROUPS),
            helper.make_tensor("bias", TensorProto.FLOAT, [GROUPS], [0.0] * GROUPS),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


@pytest.mark.parametrize("frames", [1000, 5000, 20_000])
def test_what_padding_costs_is_what_it_costs_in_onnxruntime(frames: int) -> None:
    x = padded(frames, frames // 6)
    with Widened():
        exact = NORM(x.double())
    found = snr(in_lanes(lambda: NORM(x)), exact)
    assert found < 125 < snr(NORM(x), exact)
    assert found == pytest.approx(snr(by_onnxruntime(x), exact), abs=3)  # dB


@pytest.mark.parametrize(
    "run",
    [
        nn.GroupNorm(2, 6),
        nn.GroupNorm(3, 6, affine=False),
        lambda x: x.sum(),
        lambda x: x.sum(1),
        lambda x: x.sum((0, -1), keepdim=True),
        lambda x: x.mean(),
        lambda x: x.mean(-1, keepdim=True),
        lambda x: x.mean((1, 2)),
        lambda x: x.var(-1),
        lambda x: x.var((0, 2), unbiased=False, keepdim=True),
        lambda x: x.std(1, unbiased=False),
        lambda x: x.var(),
        lambda x: x.sum().mean(),
        lambda x: x.sum(-1, dtype=torch.float64),
        lambda x: x.mean(-1, dtype=torch.float32),
        lambda x: x.double().sum(-1).float(),
        lambda x: (x > 0).sum(-1),
    ],
)
def test_the_value_is_the_operator_s_own(run: Callable[[Tensor], Tensor]) -> None:
    x = padded(101, 40, channels=6)
    expected, found = run(x).detach(), in_lanes(lambda: run(x))
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert snr(found.float(), expected.float()) > 110


def test_lanes_are_added_one_after_the_other() -> None:
    """2^24 + 1 is no fp32 number: what is added to 2^24 one by one is lost, what comes from another lane is not."""
    x = torch.zeros(3 * LANES)
    x[0], x[LANES], x[2 * LANES], x[1], x[LANES + 1] = 2.0**24, 1.0, 1.0, 1.0, 1.0
    assert lane_sum(x).item() == 2.0**24 + 2
    assert lane_sum(x).shape == (1,)


def test_nothing_to_add_is_zero() -> None:
    assert torch.equal(lane_sum(torch.zeros(2, 0), 1), torch.zeros(2, 1))
