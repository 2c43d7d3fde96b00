"""Relative sinusoidal positions of the ESPnet-style encoders, computed on the fly.

Without a stored table, exported files are smaller and the length is not limited.
"""

import math

import torch
from torch import Tensor


def relative_positions(reference: Tensor, size: int) -> Tensor:
    """Encodings of the relative positions size-1 ... -(size-1), as (1, 2*size-1, D).

    D, dtype and device are those of ``reference`` (B, T, D). Even channels are sin(p w_i), odd ones cos(p w_i) with
    w_i = 10000^(-2i/D) (Transformer-XL, arXiv 1901.02860); angles are computed in fp32 for every dtype.
    """
    width = reference.size(2)
    channels = torch.arange(0, width, 2, device=reference.device, dtype=torch.float32)
    frequencies = torch.exp(channels * -(math.log(10000.0) / width))
    # The tracing exporter fixes the length to that of the example for every form of arange except counting up from 0.
    positions = (size - 1 - torch.arange(2 * size - 1, device=reference.device)).float()
    angles = positions.unsqueeze(1) * frequencies
    table = torch.stack((torch.sin(angles), torch.cos(angles)), dim=2).flatten(1)
    return table.unsqueeze(0).to(reference.dtype)
