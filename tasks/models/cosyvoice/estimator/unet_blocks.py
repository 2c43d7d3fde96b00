"""Blocks of the CosyVoice 1 and 2 estimators: convolutions, residual blocks and transformer blocks.

State-dict names are those of the original implementation. Causal variants differ only in convolution and norm.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from tasks.models.cosyvoice.attention import attend

GROUPS = 8


@dataclass(frozen=True)
class BlockOptions:
    """Sizes and dropout rate common to the transformer blocks of one estimator."""

    heads: int
    head_width: int
    dropout: float


class CausalConv1d(nn.Conv1d):
    """A causal convolution of stride 1: zero padding on the left."""

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int) -> None:
        super().__init__(channels_in, channels_out, kernel_size)
        self.left = kernel_size - 1

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self.left, 0)))


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, T)."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2)  # TorchScript does not support super()
        return F.layer_norm(rows, self.normalized_shape, self.weight, self.bias, self.eps).transpose(1, 2)


def convolution(channels_in: int, channels_out: int, *, causal: bool) -> nn.Conv1d:
    """Kernel size 3; keeps the length."""
    return CausalConv1d(channels_in, channels_out, 3) if causal else nn.Conv1d(channels_in, channels_out, 3, padding=1)


class ConvBlock(nn.Module):
    """Convolution, norm, Mish; the norm is ``block.1`` (GroupNorm) or, when causal, ``block.2`` (LayerNorm)."""

    def __init__(self, channels_in: int, channels_out: int, *, causal: bool) -> None:
        super().__init__()
        conv = convolution(channels_in, channels_out, causal=causal)
        norm = [nn.Identity(), ChannelLayerNorm(channels_out)] if causal else [nn.GroupNorm(GROUPS, channels_out)]
        self.block = nn.Sequential(conv, *norm, nn.Mish())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, T) -> (B, C_out, T); the caller applies the mask."""
        return self.block(x)


class ResnetBlock(nn.Module):
    """Two masked convolution blocks, the time embedding added between them, with a 1x1 residual."""

    def __init__(self, channels_in: int, channels_out: int, time_width: int, *, causal: bool) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_width, channels_out))
        self.block1 = ConvBlock(channels_in, channels_out, causal=causal)
        self.block2 = ConvBlock(channels_out, channels_out, causal=causal)
        self.res_conv = nn.Conv1d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, mask: Tensor, time: Tensor) -> Tensor:
        """(B, C_in, T), mask (B, 1, T), time (B, time_width) -> (B, C_out, T)."""
        x = x * mask
        hidden = self.block1(x) + self.mlp(time).unsqueeze(2)
        return self.block2(hidden * mask) * mask + self.res_conv(x)


class Attention(nn.Module):
    """Multi-head self-attention; q, k and v without bias."""

    def __init__(self, width: int, options: BlockOptions) -> None:
        super().__init__()
        inner = options.heads * options.head_width
        self.heads = options.heads
        self.head_width = options.head_width
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(width, inner, bias=False)
        self.to_v = nn.Linear(width, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, width), nn.Dropout(options.dropout))

    def forward(self, rows: Tensor, bias: Tensor) -> Tensor:
        """Rows (B*T, C) with an additive bias broadcastable to (B, heads, T, T) -> (B*T, C)."""
        query, key, value = (self._split(to(rows), bias.size(0)) for to in (self.to_q, self.to_k, self.to_v))
        attended = attend(query, key, value, bias).transpose(1, 2)
        return self.to_out(attended.reshape(-1, self.heads * self.head_width))

    def _split(self, rows: Tensor, batch: int) -> Tensor:
        return rows.view(batch, -1, self.heads, self.head_width).transpose(1, 2)


class GeluProjection(nn.Module):
    """Linear and exact GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x))


class FeedForward(nn.Module):
    """GELU feed-forward of four times the width."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(GeluProjection(width, 4 * width), nn.Dropout(dropout), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward.

    Works on rows (B*T, C): a linear layer with bias over two axes is one Gemm in ONNX, over three axes MatMul and Add.
    """

    def __init__(self, width: int, options: BlockOptions) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, options)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width, dropout=options.dropout)

    def forward(self, rows: Tensor, bias: Tensor) -> Tensor:
        rows = rows + self.attn1(self.norm1(rows), bias)
        return rows + self.ff(self.norm3(rows))
