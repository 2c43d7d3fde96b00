"""A module in another arithmetic gives what a copy of it in that arithmetic gives, wherever there is such a copy."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from tasks.actions.verify.arithmetic import Operators, Rounded, Widened, rounded
from tasks.actions.verify.metrics import metrics
from tests.support.small_onnx_models import Overflowing


class Net(nn.Module):
    """What models have: lookups, convolutions, attention, buffers filled in place, an insistence on fp32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.conv = nn.Embedding(10, 8), nn.Conv1d(8, 8, 3, padding=1)
        self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.conv(self.embed(ids).transpose(1, 2)).transpose(1, 2)
        x = x + nn.functional.scaled_dot_product_attention(x, x, x)
        kept = torch.zeros(x.shape)
        kept[:, :4] = x[:, :4]
        return self.linear(self.norm(x.float())) * kept.sum(1, keepdim=True)


class Angle(nn.Module):
    def forward(self, t: Tensor) -> Tensor:
        return torch.sin(t[:, None] * 1000 * torch.exp(torch.arange(8) * -0.5))


IDS = torch.arange(20).reshape(2, 10) % 10


def snr(found: Tensor, expected: Tensor) -> float:
    return metrics(found, expected, rtol=0, atol=0).snr_db


@torch.no_grad()
def test_widened_is_what_a_copy_in_float64_gives() -> None:
    net = Net()
    with Widened():
        wide = net(IDS)
    assert wide.dtype is torch.float64
    assert 120 < snr(net(IDS), wide) < 160
    assert all(parameter.dtype is torch.float32 for parameter in net.parameters())
    linear = net.linear
    x = torch.randn(3, 8, dtype=torch.float64)
    with Widened():
        assert torch.equal(linear(x), copy.deepcopy(linear).double()(x))


def test_what_writes_into_a_weight_cannot_be_widened() -> None:
    weight = torch.zeros(3)
    with pytest.raises(RuntimeError, match="fp32 tensor"), Widened():
        weight.add_(torch.ones(3, dtype=torch.float64))


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, 11), (torch.bfloat16, 8)])
def test_rounded_loses_as_much_as_a_copy_in_the_format(dtype: torch.dtype, bits: int) -> None:
    linear, x = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)), torch.randn(64, 64).to(dtype).float()
    with Rounded(dtype, set()):
        rounded = linear(x)
    lost, copied = snr(rounded, linear(x)), snr(copy.deepcopy(linear).to(dtype)(x.to(dtype)).float(), linear(x))
    assert lost == pytest.approx(copied, abs=1.5)
    assert abs(lost - 20 * math.log10(2) * bits) < 12


@torch.no_grad()
def test_angles_are_not_rounded() -> None:
    t = torch.tensor([0.25, 0.75])
    exact = Angle()(t)
    with Operators() as operators:
        Angle()(t)
    with Rounded(torch.bfloat16, operators.exact):
        found = Angle()(t)
    assert torch.equal(found, exact)
    with Rounded(torch.bfloat16, set()):
        assert snr(Angle()(t), exact) < 30


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_runs_with_seeds_have_other_errors_of_the_same_size(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(4)))
    x = torch.randn(64, 64).to(dtype).float()
    with Widened():
        exact = net(x.double())
    errors = [rounded(lambda: net(x), dtype, seed=seed).double() - exact for seed in (None, 0, 1)]
    sizes = [error.square().sum().item() for error in errors]
    assert max(sizes) < 1.6 * min(sizes)
    assert abs(torch.corrcoef(torch.stack([error.flatten() for error in errors])).triu(1)).max() < 0.9
    assert torch.equal(rounded(lambda: net(x), dtype, seed=1), rounded(lambda: net(x), dtype, seed=1))


@torch.no_grad()
def test_what_overflows_stays_in_fp32() -> None:
    net, x = Overflowing(), torch.randn(2, 8, 50)
    assert 50 < snr(rounded(lambda: net(x), torch.float16), net(x)) < 80


@torch.no_grad()
def test_a_module_with_buffers_filled_in_place_is_rounded() -> None:
    net = Net()
    assert 40 < snr(rounded(lambda: net(IDS), torch.float16), net(IDS)) < 90
