"""The short-time Fourier transform and its inverse as convolutions with constant bases.

The window of a vocoder is a few samples long, so the bases are small; every runtime has convolutions, few an STFT.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_SIZE = 2048  # of the transform; its basis has that many columns


class ShortTimeFourier(nn.Module):
    """STFT and inverse with a periodic Hann window, centred frames and reflected edges, as in ``torch.stft``.

    A spectrum is [batch, 2 * bins, frames]: the real, then the imaginary parts; bins = n_fft // 2 + 1.
    """

    analysis: Tensor
    synthesis: Tensor
    squared_window: Tensor

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        if not (2 <= n_fft <= MAX_SIZE and n_fft % 2 == 0 and 1 <= hop <= n_fft):
            raise ValueError(f"n_fft {n_fft} must be even, up to {MAX_SIZE}, and hop_len {hop} from 1 to n_fft")
        self.n_fft, self.hop, self.bins = n_fft, hop, n_fft // 2 + 1
        # Loaders build on the meta device; these constants, which no checkpoint has, must be real.
        with torch.device("cpu"):
            window = torch.hann_window(n_fft, dtype=torch.float64)
            cosine, sine = _fourier_basis(n_fft)
            both_sides = torch.full((self.bins, 1), 2.0, dtype=torch.float64)
            both_sides[[0, -1]] = 1.0
        self._constant("analysis", torch.cat([cosine, -sine]) * window)
        self._constant("synthesis", torch.cat([cosine * both_sides, -sine * both_sides]) * window / n_fft)
        self._constant("squared_window", (window**2)[None])

    def transform(self, wave: Tensor) -> Tensor:
        """Wave [batch, 1, samples] -> spectrum [batch, 2 * bins, samples // hop + 1]."""
        edge = self.n_fft // 2
        return F.conv1d(F.pad(wave, (edge, edge), mode="reflect"), self.analysis, stride=self.hop)

    def inverse(self, spectrum: Tensor) -> Tensor:
        """Spectrum [batch, 2 * bins, frames] -> wave [batch, (frames - 1) * hop], the least-squares inverse."""
        overlapped = F.conv_transpose1d(spectrum, self.synthesis, stride=self.hop)
        envelope = F.conv_transpose1d(torch.ones_like(spectrum[:1, :1]), self.squared_window, stride=self.hop)
        edge = self.n_fft // 2
        return overlapped[:, 0, edge:-edge] / envelope[:, 0, edge:-edge]

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value[:, None].float(), persistent=False)


def _fourier_basis(n_fft: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the one-sided transform, [bins, n_fft], float64."""
    turns = torch.outer(torch.arange(n_fft // 2 + 1), torch.arange(n_fft)) % n_fft
    angle = turns.double() * (2 * torch.pi / n_fft)
    return angle.cos(), angle.sin()
