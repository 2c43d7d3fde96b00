"""A flag that a module takes and ignores is refused; one that changes its outputs at some size is not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tasks.actions.options import require_effective_options
from tasks.settings.component import ComponentSpec
from tests.support.errors import error_of

INPUTS = {"x": {"shape": ["batch", "frames"]}}
AXES = {"batch": {"min": 1, "opt": 1, "max": 2}, "frames": {"min": 4, "opt": 9, "max": 40}}


class Chunked(nn.Module):
    """Adds 1 to what lies beyond the first chunk; 0: there are no chunks."""

    def __init__(self, chunk: int) -> None:
        super().__init__()
        self.chunk = chunk

    def forward(self, x: Tensor, streaming: bool = False, steps: int = 1) -> Tensor:
        late = torch.arange(x.shape[-1]) >= self.chunk
        return x + late if streaming and self.chunk else x


def component(**options: Any) -> ComponentSpec:
    return ComponentSpec.from_params({"name": "small", "inputs": INPUTS, "axes": AXES, "options": options})


def test_a_flag_without_an_effect_is_refused() -> None:
    error = error_of(require_effective_options, Chunked(0), component(streaming=True))
    assert error.where == "model.components.small.options.streaming=true"


@pytest.mark.parametrize("chunk", [4, 30])
def test_a_flag_with_an_effect_at_the_usual_or_the_largest_size_is_kept(chunk: int) -> None:
    require_effective_options(Chunked(chunk), component(streaming=True))


def test_defaults_and_numbers_are_not_tried() -> None:
    require_effective_options(Chunked(0), component(streaming=False, steps=3))
