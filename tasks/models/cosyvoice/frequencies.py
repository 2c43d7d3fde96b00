"""The frequencies of sinusoidal encodings, as a table beside the weights.

An engine's exp() differs from PyTorch's in the last bit, and the error of an angle grows with the position: at position
300 it is a hundred times that of fp32. So exported files contain the very numbers of the original.
"""

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn


class Frequencies(nn.Module):
    """A module with a buffer of frequencies that stays in fp32 under ``half()``, for angles need all of its digits."""

    inv_freq: Tensor

    def __init__(self, frequencies: Tensor, *, persistent: bool = False) -> None:
        super().__init__()
        self.register_buffer("inv_freq", frequencies, persistent=persistent)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        frequencies = self.inv_freq
        super()._apply(fn, recurse)
        self.inv_freq = frequencies.to(self.inv_freq.device)
        return self


def decaying(count: int, last: float) -> Tensor:
    """fp32 (count,): 10000^(-i / last) for i from 0 to count - 1, in the arithmetic of the original implementation."""
    with torch.device("cpu"):  # loaders build on the meta device; these numbers, which no checkpoint has, must be real
        return torch.exp(torch.arange(count, dtype=torch.float32) * -(math.log(10000.0) / last))
