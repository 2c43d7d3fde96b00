"""Padding and chunk masks, and the additive attention bias of a mask.

Without data-dependent branches, so that scripting and both ONNX exporters support them.
"""

import torch
from torch import Tensor

# Representable in fp16, so that a converted graph keeps it; exp() of it is exactly 0 in every dtype.
MASKED_SCORE = -6e4


def valid_mask(lengths: Tensor, size: int) -> Tensor:
    """True on the first ``lengths[b]`` of ``size`` positions: int (B,) -> bool (B, 1, size)."""
    positions = torch.arange(size, device=lengths.device)
    return (positions.unsqueeze(0) < lengths.unsqueeze(1)).unsqueeze(1)


def attention_mask(valid: Tensor, chunk_size: int) -> Tensor:
    """Which keys each query may see: bool (B, 1, T) -> (B, 1, T), or (B, T, T) when ``chunk_size`` > 0.

    With chunks, a query sees every key up to the end of its own chunk. A row that would see no key sees all keys, as
    in the original implementation; this keeps the softmax finite.
    """
    if chunk_size > 0:
        positions = torch.arange(valid.size(2), device=valid.device)
        chunk_end = (positions // chunk_size + 1) * chunk_size
        valid = valid & (positions.unsqueeze(0) < chunk_end.unsqueeze(1)).unsqueeze(0)
    return valid | ~valid.any(dim=-1, keepdim=True)


def attention_bias(mask: Tensor, dtype: torch.dtype, masked_score: float = MASKED_SCORE) -> Tensor:
    """Additive attention bias of a boolean mask: (B, R, T) -> (B, 1, R, T), 0 where a key is seen.

    The score is an argument because TorchScript functions cannot read globals.
    """
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill(~mask, masked_score).unsqueeze(1)
