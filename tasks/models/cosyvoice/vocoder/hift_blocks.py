"""Layers of the HiFT vocoders: residual blocks with periodic activations, and centred convolutions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


@dataclass(frozen=True)
class LayerSet:
    """Constructors of the convolutions of a vocoder; all but ``down`` are weight-normed.

    first: (in_channels, out_channels), the input layer.
    up: (in_channels, out_channels, kernel size, factor), upsamples by the factor.
    down: (in_channels, out_channels, stride), downsamples the spectrum of the excitation.
    block: (channels, kernel size, dilation), keeps the length.
    last: (in_channels, out_channels), the output layer.
    """

    first: Callable[[int, int], nn.Module]
    up: Callable[[int, int, int, int], nn.Module]
    down: Callable[[int, int, int], nn.Module]
    block: Callable[[int, int, int], nn.Module]
    last: Callable[[int, int], nn.Module]


class Snake(nn.Module):
    """x + sin(ax)^2 / a with a learned ``a`` per channel (Ziyin et al. 2020, arXiv:2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, samples] -> the same shape."""
        alpha = self.alpha[:, None]
        return x + torch.sin(x * alpha) ** 2 / (alpha + 1e-9)


class ResBlock(nn.Module):
    """For each dilation: Snake, dilated convolution, Snake, convolution, with a residual connection."""

    def __init__(self, channels: int, kernel_size: int, dilations: Sequence[int], layers: LayerSet) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(layers.block(channels, kernel_size, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(layers.block(channels, kernel_size, 1) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, samples] -> the same shape."""
        steps = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for activation1, conv1, activation2, conv2 in steps:
            x = x + conv2(activation2(conv1(activation1(x))))
        return x


def _first(in_channels: int, out_channels: int) -> nn.Module:
    return weight_norm(nn.Conv1d(in_channels, out_channels, kernel_size=7, padding=3))


def _up(in_channels: int, out_channels: int, kernel_size: int, factor: int) -> nn.Module:
    padding = (kernel_size - factor) // 2
    return weight_norm(nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride=factor, padding=padding))


def _down(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1:
        return nn.Conv1d(in_channels, out_channels, kernel_size=1)
    return nn.Conv1d(in_channels, out_channels, kernel_size=2 * stride, stride=stride, padding=stride // 2)


def _block(channels: int, kernel_size: int, dilation: int) -> nn.Module:
    padding = dilation * (kernel_size - 1) // 2
    return weight_norm(nn.Conv1d(channels, channels, kernel_size, dilation=dilation, padding=padding))


CENTRED = LayerSet(first=_first, up=_up, down=_down, block=_block, last=_first)
