"""Weights in a file are found by their values, whatever an exporter did to their names and shapes."""

import pytest
import torch
from torch import Tensor, nn

from tasks.actions.verify.weights import compare_weights
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
    return compare_weights(net, lambda: net(torch.randn(1, 4, 9)), list(stored))


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


class Derived(nn.Module):
    """Computes what it multiplies by, and normalizes after a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 6))
        with torch.no_grad():
            self.normed.parametrizations.weight.original1.mul_(1.7)
        self.up, self.norm = nn.ConvTranspose1d(6, 5, 3), nn.BatchNorm1d(5)
        self.scale = nn.Parameter(torch.tensor([0.3, 0.7, 1.1, 1.3]))
        self.norm.running_var.uniform_(0.5, 2)
        self.norm.running_mean.normal_()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.up(self.normed(x.transpose(1, 2) * self.scale.exp()).transpose(1, 2)))


def folded_weights(net: Derived, dtype: torch.dtype) -> list[StoredWeight]:
    """As exporters store them: what depends on no input computed, the normalization in the convolution before it."""
    factor = net.norm.weight / torch.sqrt(net.norm.running_var + net.norm.eps)
    bias = (net.up.bias - net.norm.running_mean) * factor + net.norm.bias
    values = {"1": net.normed.weight, "2": net.normed.bias, "3": net.up.weight * factor[:, None], "4": bias}
    return [
        weight(name, value.detach().to(dtype, copy=True)) for name, value in {**values, "5": net.scale.exp()}.items()
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_is_computed_from_weights_is_found_in_their_place(dtype: torch.dtype) -> None:
    net = Derived().eval().requires_grad_(False)
    call = lambda: net(torch.randn(2, 4, 9))  # noqa: E731
    assert compare_weights(net, call, folded_weights(net, dtype))["problems"] == []
    assert compare_weights(net, call, folded_weights(net, dtype))["without_counterpart"] == []
    for number in range(5):
        stored = folded_weights(net, dtype)
        stored[number].read().flatten()[1] *= 1.05
        assert compare_weights(net, call, stored)["problems"]


def test_a_wrong_copy_beside_the_right_one_is_a_problem(net: Net) -> None:
    stored = [*sound(net, torch.float32), weight("z", net.linear.weight * 1.01)]
    assert compared(net, *stored)["problems"] == ["z in the artifact is none of the original's weights"]


def test_a_vector_of_zeros_in_place_of_a_bias_is_a_problem_whatever_its_name(net: Net) -> None:
    stored = sound(net, torch.float32)
    stored[2] = weight("946", torch.zeros(6))
    assert "conv.bias: 6 of 6 elements of 946 differ" in compared(net, *stored)["problems"][0]
