"""Conformer layers with options that no released model uses: macaron feed-forward and convolution.

Conformer, Gulati et al. 2020 (arXiv:2005.08100). State-dict names are those of the original implementation.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.errors import UserError
from tasks.models.cosyvoice.encoder.espnet_layers import ConformerLayer, FeedForward, LayerOptions, activation_of
from tasks.models.cosyvoice.estimator.unet_blocks import ChannelLayerNorm

NORMS = {"batch_norm": nn.BatchNorm1d, "layer_norm": ChannelLayerNorm}


@dataclass(frozen=True)
class ConvolutionOptions:
    """Kernel size and norm of the depthwise convolution, and whether it is causal."""

    kernel_size: int
    norm: Literal["batch_norm", "layer_norm"]
    causal: bool

    def check(self) -> None:
        """Validate the options.

        Raises:
            UserError: the norm is unknown, or the kernel of a centred convolution has an even size.
        """
        if self.norm not in NORMS:
            raise UserError(
                "unknown norm", where="cnn_module_norm", value=self.norm, remedy=f"Use {' or '.join(NORMS)}"
            )
        if not self.causal and self.kernel_size % 2 == 0:
            raise UserError(
                "a convolution that is not causal needs an odd kernel size",
                where="cnn_module_kernel",
                value=self.kernel_size,
                remedy="Set an odd size or causal: True",
            )


class ConvolutionModule(nn.Module):
    """Gated pointwise convolution, depthwise convolution, norm, activation, pointwise convolution."""

    def __init__(self, width: int, options: ConvolutionOptions, activation: nn.Module) -> None:
        super().__init__()
        options.check()
        self.past = options.kernel_size - 1 if options.causal else 0
        padding = 0 if options.causal else options.kernel_size // 2
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1)
        self.depthwise_conv = nn.Conv1d(width, width, options.kernel_size, padding=padding, groups=width)
        self.norm = NORMS[options.norm](width)
        self.pointwise_conv2 = nn.Conv1d(width, width, 1)
        self.activation = activation

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D); positions where ``valid``, bool (B, 1, T), is False count as zeros."""
        x = x.transpose(1, 2).masked_fill(~valid, 0.0)
        return self._convolved(F.pad(x, (self.past, 0))).masked_fill(~valid, 0.0).transpose(1, 2)

    def forward_cached(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) and ``before`` (B, D, kernel - 1), empty at the start -> (B, T, D) and the next ``before``."""
        x = x.transpose(1, 2)
        if self.past == 0:
            return self._convolved(x).transpose(1, 2), torch.zeros(0, 0, 0, dtype=x.dtype, device=x.device)
        x = torch.cat((before.to(x.dtype), x), dim=2) if before.size(2) > 0 else F.pad(x, (self.past, 0))
        return self._convolved(x).transpose(1, 2), x[:, :, x.size(2) - self.past :]

    def _convolved(self, x: Tensor) -> Tensor:
        x = self.depthwise_conv(F.glu(self.pointwise_conv1(x), dim=1))
        return self.pointwise_conv2(self.activation(self.norm(x)))


class FullConformerLayer(ConformerLayer):
    """[half feed-forward,] attention, [convolution,] [half] feed-forward[, and a final norm with a convolution]."""

    def __init__(
        self, width: int, options: LayerOptions, *, macaron: bool, convolution: ConvolutionOptions | None
    ) -> None:
        super().__init__(width, options)
        self.share = 0.5 if macaron else 1.0
        self.feed_forward_macaron: nn.Module | None = None
        self.norm_ff_macaron: nn.Module | None = None
        self.conv_module: nn.Module | None = None
        self.norm_conv: nn.Module | None = None
        self.norm_final: nn.Module | None = None
        if macaron:
            activation = activation_of(options.activation)
            self.feed_forward_macaron = FeedForward(
                width, options.hidden, dropout=options.dropout, activation=activation
            )
            self.norm_ff_macaron = nn.LayerNorm(width, eps=1e-12)
        if convolution is not None:
            self.conv_module = ConvolutionModule(width, convolution, activation_of(options.activation))
            self.norm_conv = nn.LayerNorm(width, eps=1e-12)
            self.norm_final = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, bias: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """Shapes as in RelPositionAttention.forward; ``valid`` bool (B, 1, T)."""
        x = self._opened(x)
        x = x + self.dropout(self.self_attn(self.norm_mha(x), bias, positions))
        if self.conv_module is not None and self.norm_conv is not None:
            x = x + self.dropout(self.conv_module(self.norm_conv(x), valid))
        return self._closed(x)

    def forward_cached(
        self, x: Tensor, bias: Tensor, positions: Tensor, cache: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Shapes as in RelPositionAttention.forward_cached and ConvolutionModule.forward_cached."""
        x = self._opened(x)
        attended, cache = self.self_attn.forward_cached(self.norm_mha(x), bias, positions, cache)
        x = x + self.dropout(attended)
        if self.conv_module is not None and self.norm_conv is not None:
            convolved, before = self.conv_module.forward_cached(self.norm_conv(x), before)  # type: ignore[operator]
            x = x + self.dropout(convolved)
        return self._closed(x), cache, before

    def _opened(self, x: Tensor) -> Tensor:
        if self.feed_forward_macaron is not None and self.norm_ff_macaron is not None:
            x = x + self.share * self.dropout(self.feed_forward_macaron(self.norm_ff_macaron(x)))
        return x

    def _closed(self, x: Tensor) -> Tensor:
        x = x + self.share * self.dropout(self.feed_forward(self.norm_ff(x)))
        if self.norm_final is not None:
            x = self.norm_final(x)
        return x
