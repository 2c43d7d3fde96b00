"""What the strict loader accepts beside an exact copy of the state dict."""

from pathlib import Path

import torch
from torch import nn

from tasks.models.loading.strict_loading import load_strictly


def test_counters_that_the_original_averaging_made_floating_point_are_accepted():
    module = nn.BatchNorm1d(3)
    state = module.state_dict() | {"num_batches_tracked": torch.tensor(7.0)}
    load_strictly(module, state, source=Path("averaged.pt"))
    assert module.num_batches_tracked == 7
    assert module.eval()(torch.ones(2, 3)).isfinite().all()
