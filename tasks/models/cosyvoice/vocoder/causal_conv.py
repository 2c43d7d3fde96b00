"""Convolutions that see only the past, or only a fixed number of frames ahead."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Side = Literal["left", "right"]


class CausalConv1d(nn.Conv1d):
    """A convolution padded on one side, with zeros or, on the right, with given frames; keeps the length.

    Args:
        side: "left" sees the past, "right" sees frames ahead.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, dilation: int = 1, side: Side = "left"
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, dilation=dilation)
        self.side, self.reach = side, dilation * (kernel_size - 1)

    def forward(self, x: Tensor, ahead: Tensor | None = None) -> Tensor:
        """[batch, in_channels, frames] -> [batch, out_channels, frames].

        ``ahead`` [batch, in_channels, ``self.reach``]: the frames that follow ``x``; zeros if None.
        """
        if ahead is not None:
            return super().forward(torch.cat([x, ahead], dim=2))
        return super().forward(F.pad(x, (self.reach, 0) if self.side == "left" else (0, self.reach)))


class CausalUpsampleConv1d(nn.Conv1d):
    """Repeats every frame ``factor`` times and applies a causal convolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, factor: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in_channels, frames] -> [batch, out_channels, frames * factor]."""
        x = F.interpolate(x, scale_factor=float(self.factor), mode="nearest")
        return super().forward(F.pad(x, (self.kernel_size[0] - 1, 0)))


class CausalDownsampleConv1d(nn.Conv1d):
    """A causal convolution with a stride."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, 2 * stride, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in_channels, frames * stride + 1] -> [batch, out_channels, frames]."""
        return super().forward(F.pad(x, (self.stride[0] - 1, 0)))
