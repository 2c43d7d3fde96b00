"""The UNet estimators of CosyVoice 1 (GroupNorm, bidirectional) and 2 (causal, LayerNorm, streaming).

Both predict the velocity of the flow from the noisy mel, the mel of the encoder, the speaker and the prompt mel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from tasks.errors import UserError
from tasks.models.cosyvoice.estimator.time_embedding import SinusoidalTime
from tasks.models.cosyvoice.estimator.unet_blocks import (
    BlockOptions,
    ConvBlock,
    ResnetBlock,
    TransformerBlock,
    convolution,
)
from tasks.models.cosyvoice.masks import attention_bias, attention_mask


class Downsample(nn.Module):
    """Halves the length, rounding up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Doubles the length."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(channels, channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class TimeMlp(nn.Module):
    """Two linear layers with SiLU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, hidden)
        self.act = nn.SiLU()
        self.linear_2 = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(x)))


@dataclass(frozen=True)
class UNetShape:
    """Channels of the input, the output and each resolution; transformer blocks per stage; number of middle stages."""

    in_channels: int
    out_channels: int
    channels: Sequence[int]
    n_blocks: int
    num_mid_blocks: int


class Level(NamedTuple):
    """Shared by the stages of one resolution: mask (B, 1, T) and additive attention bias (B, 1, 1 | T, T)."""

    mask: Tensor
    bias: Tensor


class Stage(nn.ModuleList):
    """[residual block, transformer blocks, layer that may change the length]; middle stages do not have the last."""

    def forward(self, x: Tensor, time: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """(B, C_in, T) -> features (B, C, T), and the output of the last layer, or the features without one."""
        resnet, blocks, *resize = self
        x = resnet(x, level.mask, time)
        rows = x.transpose(1, 2).reshape(-1, x.size(1))
        for block in cast(nn.ModuleList, blocks):
            rows = block(rows, level.bias)
        features = rows.view(x.size(0), -1, x.size(1)).transpose(1, 2)
        return features, resize[0](features * level.mask) if resize else features


class UNet(nn.Module):
    """Base of the two estimators."""

    def __init__(self, shape: UNetShape, options: BlockOptions, *, causal: bool, static_chunk_size: int = 0) -> None:
        super().__init__()
        if shape.in_channels != 4 * shape.out_channels:
            raise ValueError("in_channels must be 4 x out_channels: noisy mel, encoded mel, speaker and prompt mel")
        self.in_channels = shape.in_channels
        self.out_channels = shape.out_channels
        self.static_chunk_size = static_chunk_size
        down = list(shape.channels)
        up = [*reversed(down), down[0]]
        self.sinusoidal = SinusoidalTime(shape.in_channels)
        self.time_mlp = TimeMlp(shape.in_channels, 4 * down[0])

        def stage(channels_in: int, width: int, *resize: nn.Module) -> Stage:
            blocks = nn.ModuleList(TransformerBlock(width, options) for _ in range(shape.n_blocks))
            return Stage([ResnetBlock(channels_in, width, 4 * down[0], causal=causal), blocks, *resize])

        def resize(change: type[nn.Module], position: int, width: int) -> nn.Module:
            return change(width) if position + 1 < len(down) else convolution(width, width, causal=causal)

        inputs = [shape.in_channels, *down]
        self.down_blocks = nn.ModuleList(
            stage(inputs[i], width, resize(Downsample, i, width)) for i, width in enumerate(down)
        )
        self.mid_blocks = nn.ModuleList(stage(down[-1], down[-1]) for _ in range(shape.num_mid_blocks))
        self.up_blocks = nn.ModuleList(
            stage(2 * up[i], width, resize(Upsample, i, width)) for i, width in enumerate(up[1:])
        )
        self.final_block = ConvBlock(up[-1], up[-1], causal=causal)
        self.final_proj = nn.Conv1d(up[-1], shape.out_channels, 1)

    def sizes(self) -> dict[str, int]:
        return {"mel": self.out_channels}

    def forward(  # noqa: PLR0917 - the original order, which TensorRT plans rely on
        self, x: Tensor, mask: Tensor, mu: Tensor, t: Tensor, spks: Tensor, cond: Tensor, streaming: bool = False
    ) -> Tensor:
        """The velocity at time t.

        Args:
            x: (B, mel, T), the noisy mel.
            mask: (B, 1, T), 1 on valid frames, else 0.
            mu: (B, mel, T), the mel predicted by the encoder.
            t: (B,) or 0-d, in [0, 1].
            spks: (B, mel), the projected speaker embedding.
            cond: (B, mel, T), mel of the prompt, zeros elsewhere.
            streaming: attend in chunks of ``static_chunk_size`` frames; 0: no chunks.

        Returns:
            (B, mel, T), zero on masked frames.
        """
        mask = mask.to(x.dtype)
        time = self.time_mlp(self.sinusoidal(t, x.dtype))
        x = torch.cat((x, mu, spks.unsqueeze(2).expand(-1, -1, x.size(2)), cond), dim=1)
        levels = self._levels(mask, self.static_chunk_size if streaming else 0)
        skipped = []
        for stage, level in zip(self.down_blocks, levels, strict=True):
            features, x = stage(x, time, level)
            skipped.append(features)
        for stage in self.mid_blocks:
            x, _ = stage(x, time, levels[-1])
        for depth, (stage, level, skip) in enumerate(zip(self.up_blocks, levels[::-1], skipped[::-1], strict=True)):
            # An odd length comes back from halving and doubling as the next even one. Not x[:, :, :length]: to the
            # exporter that is min(length, size), which makes every later size a longer expression.
            x = x.narrow(2, 0, skip.size(2)) if depth else x
            _, x = stage(torch.cat((x, skip), dim=1), time, level)
        return self.final_proj(self.final_block(x * mask) * mask) * mask

    def _levels(self, mask: Tensor, chunk_size: int) -> list[Level]:
        levels = []
        for _ in range(len(self.down_blocks)):
            levels.append(Level(mask, attention_bias(attention_mask(mask.bool(), chunk_size), mask.dtype)))
            mask = mask[:, :, ::2]
        return levels


def require_gelu(act_fn: str) -> None:
    if act_fn != "gelu":
        raise UserError(
            "the estimator supports only act_fn='gelu'",
            where="act_fn",
            value=act_fn,
            remedy="Use the configuration of the original CosyVoice models",
        )


class ConditionalDecoder(UNet):
    """The estimator of CosyVoice 1: GroupNorm, unmasked attention.

    ``causal`` makes it that of the first CosyVoice 2 folders, which was a class of its own later: it has no chunk size.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (256, 256),
        dropout: float = 0.05,
        attention_head_dim: int = 64,
        n_blocks: int = 1,
        num_mid_blocks: int = 2,
        num_heads: int = 4,
        act_fn: str = "gelu",
        causal: bool = False,
    ) -> None:
        require_gelu(act_fn)
        shape = UNetShape(in_channels, out_channels, channels, n_blocks, num_mid_blocks)
        super().__init__(shape, BlockOptions(num_heads, attention_head_dim, dropout), causal=causal)


class CausalConditionalDecoder(UNet):
    """The estimator of CosyVoice 2: causal convolutions, LayerNorm, attention in chunks when streaming.

    ``num_decoding_left_chunks`` is kept for compatibility with the original config; ignored, as every chunk sees all
    earlier chunks.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (256, 256),
        dropout: float = 0.05,
        attention_head_dim: int = 64,
        n_blocks: int = 1,
        num_mid_blocks: int = 2,
        num_heads: int = 4,
        act_fn: str = "gelu",
        static_chunk_size: int = 50,
        num_decoding_left_chunks: int = -1,
    ) -> None:
        require_gelu(act_fn)
        shape = UNetShape(in_channels, out_channels, channels, n_blocks, num_mid_blocks)
        options = BlockOptions(num_heads, attention_head_dim, dropout)
        super().__init__(shape, options, causal=True, static_chunk_size=static_chunk_size)
