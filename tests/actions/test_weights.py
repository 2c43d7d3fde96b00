"""Weights in a file are found by their values, whatever an exporter did to their names and shapes."""

import pytest
import torch
from torch import Tensor, nn

from tasks.actions.verify.weights import Reads, compare_weights
from tasks.runtimes.base import StoredWeight


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.linear = nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.Linear(6, 5)
        self.unread = nn.Linear(7, 7)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(self.conv(x)).transpose(1, 2))


@pytest.fixture
def net() -> Net:
    return Net().eval().requires_grad_(False)


def weight(name: str, values: Tensor, scale: float = 1.0) -> StoredWeight:
    return StoredWeight(name, lambda: values, scale)


def compared(net: Net, *stored: StoredWeight) -> dict:
    with Reads() as reads:
        net(torch.randn(1, 4, 9))
    return compare_weights(net, reads.addresses, list(stored))


def sound(net: Net, dtype: torch.dtype) -> list[StoredWeight]:
    """The weights as an exporter could have stored them."""
    return [
        weight("a", net.conv.weight.to(dtype)),
        weight("b", (net.linear.weight * 0.37).to(dtype).T.contiguous(), scale=0.37),
        *(weight(name, net.state_dict()[name].to(dtype)) for name in ("conv.bias", "linear.bias")),
        *(weight(f"norm.{name}", net.norm.state_dict()[name]) for name in ("weight", "bias")),
        *(weight(f"norm.running_{name}", net.norm.state_dict()[f"running_{name}"]) for name in ("mean", "var")),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rounded_transposed_and_scaled_weights_are_found(net: Net, dtype: torch.dtype) -> None:
    result = compared(net, *sound(net, dtype))
    assert result == {"found": 8, "without_counterpart": [], "problems": []}


def test_a_folded_batch_normalization_is_recomputed(net: Net) -> None:
    factor = net.norm.weight / torch.sqrt(net.norm.running_var + net.norm.eps)
    stored = [weight("a", net.conv.weight * factor[:, None, None]), *sound(net, torch.float32)[1:4]]
    assert compared(net, *stored)["problems"] == []
    stored[0].read()[2, 1, 0] *= 1.01
    assert "conv.weight: 72 of 72 elements of a differ" in compared(net, *stored)["problems"][0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_wrong_element_is_named(net: Net, dtype: torch.dtype) -> None:
    stored = sound(net, dtype)
    stored[1].read()[3, 2] += 0.01
    (problem,) = compared(net, *stored)["problems"]
    assert problem.startswith("linear.weight: 1 of 30 elements of b differ")


def test_a_scale_that_the_exporter_did_not_note_is_a_problem(net: Net) -> None:
    stored = sound(net, torch.float32)
    stored[1] = weight("b", stored[1].read())
    assert "30 of 30" in compared(net, *stored)["problems"][0]


def test_what_has_no_counterpart_of_its_size_is_listed(net: Net) -> None:
    assert compared(net, *sound(net, torch.float32)[1:])["without_counterpart"] == ["conv.weight"]
