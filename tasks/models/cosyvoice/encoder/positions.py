"""Relative sinusoidal positions of the ESPnet-style encoders, computed where they are needed.

No table is stored: a file exported from these modules carries none, and no length is too long.
"""

import math

import torch
from torch import Tensor


def relative_positions(reference: Tensor, size: int) -> Tensor:
    """Encodings of the relative positions size-1 ... -(size-1), as (1, 2*size-1, D).

    D, dtype and device are those of ``reference`` (B, T, D). Even channels are sin(p w_i), odd ones cos(p w_i) with
    w_i = 10000^(-2i/D) (Transformer-XL, arXiv 1901.02860); angles are taken in fp32 whatever the dtype.
    """
    width = reference.size(2)
    channels = torch.arange(0, width, 2, device=reference.device, dtype=torch.float32)
    frequencies = torch.exp(channels * -(math.log(10000.0) / width))
    # Counting up from 0 is the one form of arange that the tracing exporter does not freeze at the example's length.
    positions = (size - 1 - torch.arange(2 * size - 1, device=reference.device)).float()
    angles = positions.unsqueeze(1) * frequencies
    table = torch.stack((torch.sin(angles), torch.cos(angles)), dim=2).flatten(1)
    return table.unsqueeze(0).to(reference.dtype)
