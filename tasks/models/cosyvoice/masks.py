"""Padding and chunk masks, and the additive bias that attention makes of them.

All without data-dependent branches, so that scripting and both ONNX exporters accept them.
"""

import torch
from torch import Tensor

# Representable in half precision, so a graph converted to fp16 keeps it; exp() of it is exactly 0 in every dtype.
MASKED_SCORE = -6e4


def valid_mask(lengths: Tensor, size: int) -> Tensor:
    """True on the first ``lengths[b]`` of ``size`` positions: int (B,) -> bool (B, 1, size)."""
    positions = torch.arange(size, device=lengths.device)
    return (positions.unsqueeze(0) < lengths.unsqueeze(1)).unsqueeze(1)


def attention_mask(valid: Tensor, chunk_size: int) -> Tensor:
    """Which keys each query may see: bool (B, 1, T) -> (B, 1, T), or (B, T, T) when ``chunk_size`` > 0.

    With chunks a query sees every key up to the end of its own chunk. A row that would see nothing sees everything,
    as in the published models, where that rule keeps the softmax finite.
    """
    if chunk_size > 0:
        positions = torch.arange(valid.size(2), device=valid.device)
        chunk_end = (positions // chunk_size + 1) * chunk_size
        valid = valid & (positions.unsqueeze(0) < chunk_end.unsqueeze(1)).unsqueeze(0)
    return valid | ~valid.any(dim=-1, keepdim=True)


def attention_bias(mask: Tensor, dtype: torch.dtype, masked_score: float = MASKED_SCORE) -> Tensor:
    """Additive attention bias of a boolean mask: (B, R, T) -> (B, 1, R, T), 0 where a key is seen.

    The score is an argument because TorchScript does not read globals.
    """
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill(~mask, masked_score).unsqueeze(1)
