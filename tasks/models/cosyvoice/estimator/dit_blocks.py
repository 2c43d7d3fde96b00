"""Blocks of the CosyVoice 3 estimator: a diffusion transformer (Peebles and Xie, arXiv 2212.09748).

State-dict names are those of the original implementation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.models.cosyvoice.attention import attend
from tasks.models.cosyvoice.estimator.time_embedding import SinusoidalTime
from tasks.models.cosyvoice.frequencies import Frequencies

TIME_WIDTH = 256
KERNEL = 31
GROUPS = 16


class TimeEmbedding(nn.Module):
    """Sinusoidal time embedding and two linear layers, (B,) or 0-d -> (B or 1, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sinusoidal = SinusoidalTime(TIME_WIDTH)
        self.time_mlp = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.time_mlp(self.sinusoidal(t, dtype))


class ConvPosition(nn.Module):
    """Convolutional position embedding: two causal grouped convolutions, (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv1d(width, width, KERNEL, groups=GROUPS), nn.Mish())
        self.conv2 = nn.Sequential(nn.Conv1d(width, width, KERNEL, groups=GROUPS), nn.Mish())

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for conv in (self.conv1, self.conv2):
            x = conv(F.pad(x, (KERNEL - 1, 0)))
        return x.transpose(1, 2)


class InputEmbedding(nn.Module):
    """Concatenates noisy mel, prompt mel, encoded mel and speaker; the order differs from the UNet."""

    def __init__(self, channels_in: int, speaker_width: int, width: int) -> None:
        """``channels_in`` excludes the speaker; with ``speaker_width`` 0 the speaker input is ignored."""
        super().__init__()
        self.with_speaker = speaker_width > 0
        self.proj = nn.Linear(channels_in + speaker_width, width)
        self.conv_pos_embed = ConvPosition(width)

    def forward(self, x: Tensor, cond: Tensor, mu: Tensor, spks: Tensor) -> Tensor:
        """(B, T, mel) three times and (B, spk) -> (B, T, D)."""
        speaker = (spks.unsqueeze(1).expand(-1, x.size(1), -1),) if self.with_speaker else ()
        x = self.proj(torch.cat((x, cond, mu, *speaker), dim=2))
        return x + self.conv_pos_embed(x)


class RotaryEmbedding(Frequencies):
    """Rotation angles by position (Su et al., arXiv 2104.09864), one frequency per pair of adjacent channels."""

    def __init__(self, width: int) -> None:
        super().__init__(1.0 / (10000 ** (torch.arange(0, width, 2).float() / width)), persistent=True)

    def forward(self, length: int) -> Tensor:
        """(1, length, width), fp32."""
        positions = torch.arange(length, device=self.inv_freq.device, dtype=torch.float32)
        return (positions.unsqueeze(1) * self.inv_freq).repeat_interleave(2, dim=1).unsqueeze(0)


class Rotation:
    """Rotates the channels of the first head only, as in the original implementation."""

    def __init__(self, angles: Tensor, dtype: torch.dtype) -> None:
        """``angles``: (1, T, width), from RotaryEmbedding."""
        width = angles.size(2)
        self.width = width
        self.cos = angles.cos().to(dtype)
        self.sin = angles.sin().to(dtype)
        # x @ turn maps each pair (a, b) to (-b, a): a small matrix product is faster than splitting the pairs.
        channel = torch.arange(width, device=angles.device)
        is_pair = channel.unsqueeze(1) // 2 == channel // 2
        self.turn = ((channel - channel.unsqueeze(1)) * is_pair).to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, T, heads * width) -> the same shape."""
        first, others = x.split((self.width, x.size(2) - self.width), dim=2)
        return torch.cat((first * self.cos + (first @ self.turn) * self.sin, others), dim=2)


class Attention(nn.Module):
    """Multi-head self-attention, all projections with bias."""

    def __init__(self, width: int, *, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.to_q = nn.Linear(width, heads * head_width)
        self.to_k = nn.Linear(width, heads * head_width)
        self.to_v = nn.Linear(width, heads * head_width)
        self.to_out = nn.Sequential(nn.Linear(heads * head_width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor, bias: Tensor, rotation: Rotation) -> Tensor:
        """(B, T, D) with an additive bias broadcastable to (B, heads, T, T) -> (B, T, D)."""
        query, key = self._split(rotation(self.to_q(x))), self._split(rotation(self.to_k(x)))
        attended = attend(query, key, self._split(self.to_v(x)), bias).transpose(1, 2)
        return self.to_out(attended.reshape(x.size(0), -1, self.heads * self.head_width))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1, self.heads, self.head_width).transpose(1, 2)


class FeedForward(nn.Module):
    """Feed-forward with the tanh approximation of GELU."""

    def __init__(self, width: int, multiple: int, *, dropout: float) -> None:
        super().__init__()
        project = nn.Sequential(nn.Linear(width, width * multiple), nn.GELU(approximate="tanh"))
        self.ff = nn.Sequential(project, nn.Dropout(dropout), nn.Linear(width * multiple, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.ff(x)


class PlainNorm(nn.LayerNorm):
    """Layer normalization without weights."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6, elementwise_affine=False)


class Modulation(nn.Module):
    """``parts`` shift, scale and gate vectors from the time embedding: (B, D) -> (B, 1, D) each."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, width * parts)

    def forward(self, time: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(time)).unsqueeze(1).chunk(self.parts, dim=2)


class DiTBlock(nn.Module):
    """Attention and feed-forward, each modulated by the time embedding (adaLN-Zero)."""

    def __init__(self, width: int, *, heads: int, head_width: int, ff_mult: int, dropout: float) -> None:
        super().__init__()
        self.norm = PlainNorm(width)
        self.attn_norm = Modulation(width, 6)
        self.attn = Attention(width, heads=heads, head_width=head_width, dropout=dropout)
        self.ff = FeedForward(width, ff_mult, dropout=dropout)

    def forward(self, x: Tensor, time: Tensor, bias: Tensor, valid: Tensor, rotation: Rotation) -> Tensor:
        """(B, T, D) -> (B, T, D).

        Args:
            time: (B, D).
            bias: additive attention bias, broadcastable to (B, heads, T, T).
            valid: (B, T, 1), 0 on frames whose attention output is dropped.
            rotation: for the queries and keys of the first head.
        """
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.attn_norm(time)
        x = x + gate_a * (self.attn(modulated(self.norm(x), scale_a, shift_a), bias, rotation) * valid)
        return x + gate_m * self.ff(modulated(self.norm(x), scale_m, shift_m))


def modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x * (1 + scale) + shift."""
    return x * (1 + scale) + shift
