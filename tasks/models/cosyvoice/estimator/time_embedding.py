"""The sinusoidal embedding of the flow time, shared by the UNet and DiT estimators."""

import math

import torch
from torch import Tensor

SCALE = 1000.0


def sinusoidal_time(t: Tensor, width: int, dtype: torch.dtype, scale: float = SCALE) -> Tensor:
    """Embed times in [0, 1]: (B,) or 0-d -> (B, width), sines then cosines (Ho et al., arXiv 2006.11239).

    The angles reach 1000, where half precision is too coarse: they are computed in fp32 and the result is cast to
    ``dtype``.
    """
    half = width // 2
    steps = torch.arange(half, device=t.device, dtype=torch.float32)
    frequencies = torch.exp(steps * -(math.log(10000.0) / (half - 1)))
    angles = (t.reshape(-1, 1).float() * scale) * frequencies
    return torch.cat((torch.sin(angles), torch.cos(angles)), dim=1).to(dtype)
