"""The sinusoidal embedding of the flow time, shared by the UNet and DiT estimators."""

import torch
from torch import Tensor

from tasks.models.cosyvoice.frequencies import Frequencies, decaying

SCALE = 1000.0


class SinusoidalTime(Frequencies):
    """Times in [0, 1] as sines, then cosines (Ho et al., arXiv 2006.11239)."""

    def __init__(self, width: int, scale: float = SCALE) -> None:
        super().__init__(decaying(width // 2, width // 2 - 1))
        self.scale = scale

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """(B,) or 0-d -> (B or 1, width).

        The angles reach 1000, where half precision is too coarse: they are computed in fp32 and the result is cast to
        ``dtype``.
        """
        angles = (t.reshape(-1, 1).float() * self.scale) * self.inv_freq
        return torch.cat((torch.sin(angles), torch.cos(angles)), dim=1).to(dtype)
