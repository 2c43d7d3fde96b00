"""The length regulator of CosyVoice 1: resamples hidden states from token rate to mel frame rate and smooths them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.models.cosyvoice.masks import valid_mask

EDGE_TOKENS = 20  # at both ends of a chunk; resampled separately, so that the frames of successive chunks align
FRAMES_PER_SECOND = 22050 / 256


class InterpolateRegulator(nn.Module):
    """Linear interpolation and one convolution per entry of ``sampling_ratios``, whose values are ignored."""

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
        resampled = self.model(_resample(x, longest)).transpose(1, 2)
        return resampled * valid_mask(ylens, longest).transpose(1, 2).to(resampled.dtype), ylens

    def inference(
        self, prompt: Tensor, x: Tensor, prompt_frames: int, frames: int, input_frame_rate: int = 50
    ) -> tuple[Tensor, int]:
        """Prompt (1, P, C) and the tokens after it (1, T, C) -> (1, prompt_frames + frames, C_out) and that length.

        Args:
            input_frame_rate: tokens per second.
        """
        edge = int(EDGE_TOKENS / input_frame_rate * FRAMES_PER_SECOND)
        parts = [_resample(prompt, prompt_frames)] if prompt.size(1) > 0 else []
        if x.size(1) > 2 * EDGE_TOKENS:
            middle = x[:, EDGE_TOKENS:-EDGE_TOKENS]
            parts += [_resample(x[:, :EDGE_TOKENS], edge), _resample(middle, frames - 2 * edge)]
            parts += [_resample(x[:, -EDGE_TOKENS:], edge)]
        else:
            parts += [_resample(x, frames)]
        return self.model(torch.cat(parts, dim=2)).transpose(1, 2), prompt_frames + frames


def _resample(x: Tensor, frames: int) -> Tensor:
    """(B, T, C) -> (B, C, frames)."""
    return F.interpolate(x.transpose(1, 2), size=frames, mode="linear")
