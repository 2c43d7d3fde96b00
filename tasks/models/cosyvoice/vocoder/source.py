"""The excitation of the HiFT vocoders: harmonics of the predicted pitch plus noise, which is an argument.

Neural source-filter model, Wang et al. 2019 (arXiv:1904.12088). ``SourceNoise`` is the only randomness: the same mel
and noise give the same waveform, and an exported graph can take the noise as an input.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The phase is accumulated per sample (22.05 kHz models), or per frame and then upsampled (24 kHz models).
PhaseRule = Literal["by_sample", "by_frame_linear", "by_frame_nearest"]
_INTERPOLATION = {"by_frame_linear": "linear", "by_frame_nearest": "nearest"}


class SourceNoise(NamedTuple):
    """The random part of an excitation.

    phase: [batch, harmonics] in [0, 1), the initial phase in turns; used by the ``by_sample`` rule only.
    samples: [batch, samples, harmonics], of unit scale.
    """

    phase: Tensor
    samples: Tensor


class HarmonicSource(nn.Module):
    """Pitch to excitation: harmonics in voiced frames, noise in all frames, merged by one linear layer.

    Args:
        sampling_rate: in Hz.
        hop: samples per frame.
        overtones: number of harmonics above the fundamental.
        amplitude: amplitude of each sine.
        noise_std: standard deviation of the noise in voiced frames; ``amplitude / 3`` in unvoiced ones.
        voiced_threshold: in Hz; frames with a higher pitch are voiced.
        phase_rule: where the phase is accumulated.
    """

    def __init__(
        self,
        *,
        sampling_rate: int,
        hop: int,
        overtones: int,
        amplitude: float,
        noise_std: float,
        voiced_threshold: float,
        phase_rule: PhaseRule,
    ) -> None:
        super().__init__()
        self.sampling_rate, self.hop, self.harmonics = sampling_rate, hop, overtones + 1
        self.amplitude, self.noise_std, self.voiced_threshold = amplitude, noise_std, voiced_threshold
        self.phase_rule: PhaseRule = phase_rule
        self.l_linear = nn.Linear(self.harmonics, 1)

    def forward(self, f0: Tensor, noise: SourceNoise) -> tuple[Tensor, Tensor]:
        """Excitation and voicing of a pitch curve.

        Args:
            f0: [batch, frames] in Hz.
            noise: for batch and frames * hop samples.

        Returns:
            excitation [batch, 1, frames * hop] in (-1, 1) and voicing [batch, frames * hop, 1], 0 or 1.
        """
        sines = torch.sin(self._phase(f0, noise.phase)) * self.amplitude
        voiced = self._repeat_frames((f0 > self.voiced_threshold).to(f0.dtype)[..., None])
        level = voiced * self.noise_std + (1 - voiced) * self.amplitude / 3
        excitation = torch.tanh(self.l_linear(sines * voiced + level * noise.samples))
        return excitation.transpose(1, 2), voiced

    def draw_noise(self, f0: Tensor) -> SourceNoise:
        """New noise for ``f0`` [batch, frames] from the global generator of torch."""
        batch, frames = f0.shape
        phase = torch.rand(batch, self.harmonics, device=f0.device, dtype=f0.dtype)
        samples = torch.randn(batch, frames * self.hop, self.harmonics, device=f0.device, dtype=f0.dtype)
        return SourceNoise(phase, samples)

    def _phase(self, f0: Tensor, initial: Tensor) -> Tensor:
        """Phase of each harmonic, [batch, samples, harmonics], in radians."""
        overtones = torch.arange(1, self.harmonics + 1, device=f0.device, dtype=f0.dtype)
        turns = f0[..., None] * overtones / self.sampling_rate
        if self.phase_rule == "by_sample":
            return self._phase_by_sample(turns, initial)
        return self._phase_by_frame(turns % 1, _INTERPOLATION[self.phase_rule])

    def _phase_by_sample(self, turns: Tensor, initial: Tensor) -> Tensor:
        offset = (2 * initial - 1) * torch.pi
        offset = torch.cat([torch.zeros_like(offset[:, :1]), offset[:, 1:]], dim=1)
        return 2 * torch.pi * (torch.cumsum(self._repeat_frames(turns), dim=1) % 1) + offset[:, None]

    def _phase_by_frame(self, turns: Tensor, interpolation: str) -> Tensor:
        # The original order of operations: the phase grows so large that another order changes the sound in float32.
        phase = torch.cumsum(turns, dim=1) * 2 * torch.pi * self.hop
        return F.interpolate(phase.transpose(1, 2), scale_factor=float(self.hop), mode=interpolation).transpose(1, 2)

    def _repeat_frames(self, frames: Tensor) -> Tensor:
        """Each frame repeated ``hop`` times: [batch, frames, n] to [batch, frames * hop, n]."""
        batch, count, channels = frames.shape
        return frames[:, :, None].expand(batch, count, self.hop, channels).reshape(batch, count * self.hop, channels)
