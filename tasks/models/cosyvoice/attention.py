"""Scaled dot-product attention, as a fused operator or, in an ONNX export, as plain operations."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(query key' / sqrt(d) + bias) value, all (B, heads, T, d) with a bias broadcastable to (B, heads, T, n).

    The fused operator runs faster, but both ONNX exporters expand it to about twice the nodes of the plain formula
    (shape arithmetic for a constant scale, a second transposition of the keys).
    """
    if not torch.jit.is_scripting() and _exporting():  # type: ignore[attr-defined]
        scores = (query * query.size(-1) ** -0.5) @ key.transpose(-1, -2) + bias
        return torch.softmax(scores, dim=-1) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)


@torch.jit.unused
def _exporting() -> bool:
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
