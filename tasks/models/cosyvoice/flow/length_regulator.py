"""CosyVoice 1's length regulator: stretches token-rate hidden states to the mel's rate, then smooths them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.models.cosyvoice.masks import valid_mask

EDGE_TOKENS = 20  # at either end of a chunk, stretched on their own so that successive chunks overlap frame by frame
FRAMES_PER_SECOND = 22050 / 256


class InterpolateRegulator(nn.Module):
    """Linear interpolation and a convolution per entry of ``sampling_ratios``; the ratios themselves have no effect."""

    def __init__(
        self, *, channels: int, sampling_ratios: Sequence[int], out_channels: int | None = None, groups: int = 1
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in sampling_ratios:
            layers += [nn.Conv1d(channels, channels, 3, padding=1), nn.GroupNorm(groups, channels), nn.Mish()]
        self.model = nn.Sequential(*layers, nn.Conv1d(channels, out_channels or channels, 1))

    def forward(self, x: Tensor, ylens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, C) -> (B, max(ylens), C_out), zero beyond each of ``ylens``, and ``ylens`` (B,)."""
        longest = int(ylens.max())
        stretched = self.model(_stretch(x, longest)).transpose(1, 2)
        return stretched * valid_mask(ylens, longest).transpose(1, 2).to(stretched.dtype), ylens

    def inference(
        self, prompt: Tensor, x: Tensor, prompt_frames: int, frames: int, input_frame_rate: int = 50
    ) -> tuple[Tensor, int]:
        """Prompt (1, P, C) and what follows it (1, T, C) -> (1, prompt_frames + frames, C_out) and that length.

        Args:
            input_frame_rate: tokens per second.
        """
        edge = int(EDGE_TOKENS / input_frame_rate * FRAMES_PER_SECOND)
        parts = [_stretch(prompt, prompt_frames)] if prompt.size(1) > 0 else []
        if x.size(1) > 2 * EDGE_TOKENS:
            middle = x[:, EDGE_TOKENS:-EDGE_TOKENS]
            parts += [_stretch(x[:, :EDGE_TOKENS], edge), _stretch(middle, frames - 2 * edge)]
            parts += [_stretch(x[:, -EDGE_TOKENS:], edge)]
        else:
            parts += [_stretch(x, frames)]
        return self.model(torch.cat(parts, dim=2)).transpose(1, 2), prompt_frames + frames


def _stretch(x: Tensor, frames: int) -> Tensor:
    """(B, T, C) -> (B, C, frames)."""
    return F.interpolate(x.transpose(1, 2), size=frames, mode="linear")
