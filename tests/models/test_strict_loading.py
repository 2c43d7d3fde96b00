"""What the strict loader accepts beside an exact copy of the state dict."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tasks.models.loading.strict_loading import load_strictly
from tests.support.errors import error_of


def test_counters_that_the_original_averaging_made_floating_point_are_accepted():
    module = nn.BatchNorm1d(3)
    state = module.state_dict() | {"num_batches_tracked": torch.tensor(7.0)}
    load_strictly(module, state, source=Path("averaged.pt"))
    assert module.num_batches_tracked == 7
    assert module.eval()(torch.ones(2, 3)).isfinite().all()


class Tied(nn.Module):
    def __init__(self, *, tied):
        super().__init__()
        self.embed, self.head = nn.Embedding(3, 2), nn.Linear(2, 3, bias=False)
        if tied:
            self.head.weight = self.embed.weight


@pytest.mark.parametrize("saved", ["embed.weight", "head.weight"])
def test_of_tied_weights_one_is_enough(saved):
    module, weight = Tied(tied=True), torch.arange(6.0).reshape(3, 2)
    load_strictly(module, {saved: weight}, source=Path("w.safetensors"))
    assert torch.equal(module.embed.weight, weight)
    assert module.head.weight is module.embed.weight or torch.equal(module.head.weight, weight)


def test_weights_that_are_not_tied_are_all_needed():
    error = error_of(load_strictly, Tied(tied=False), {"embed.weight": torch.ones(3, 2)}, source=Path("w.pt"))
    assert error.value == "1 missing: head.weight"


def test_placeholders_of_zero_3_are_named_with_the_converter():
    tensors = {"weight": torch.empty(0), "bias": torch.ones(3)}
    error = error_of(load_strictly, nn.Linear(2, 3), tensors, source=Path("w.pt"))
    assert "ZeRO-3" in error.what
    assert error.value == "1 of shape (0,): weight"
    assert "zero_to_fp32.py" in error.remedy
