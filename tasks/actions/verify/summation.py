"""Sums, means and variances added up in the order of another engine.

Where a sequence is padded, a normalisation over its length adds the same number many times. Equal numbers round the
same way, so that the error of such a sum grows with its length, not with the root of it, and the more partial sums
there are, the smaller it is: PyTorch, which halves recursively, has hardly any; ONNX Runtime adds into 8 lanes, those
of two SSE or NEON registers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

LANES = 8


def in_lanes(name: str) -> Callable[..., Any] | None:
    """An operator's replacement that adds in lanes, with the operator's own arguments.

    Args:
        name: as in `aten`, without the overload.

    Returns:
        None where the operator adds nothing up, or only what has a fixed length in every model.
    """
    return _REPLACEMENTS.get(name)


def lane_sum(x: Tensor, dims: Sequence[int] | int | None = None) -> Tensor:
    """The sum over some dimensions, which are kept with the size 1.

    Args:
        x: float32; element i, counted over the summed dimensions in their order, goes into lane i mod 8, one after
            the other.
        dims: all of them if None or empty.
    """
    summed = sorted({dim % x.dim() for dim in _listed(dims)} or range(x.dim()))
    kept = [dim for dim in range(x.dim()) if dim not in summed]
    flat = x.detach().permute(kept + summed).reshape(*(x.shape[dim] for dim in kept), -1)
    flat = torch.nn.functional.pad(flat, (0, -flat.shape[-1] % LANES))
    lanes = flat.unflatten(-1, (-1, LANES)).cpu().numpy()
    partial = np.add.accumulate(lanes, axis=-2)[..., -1:, :]  # unlike PyTorch's, strictly one after the other
    total = torch.from_numpy(partial).sum(dim=(-2, -1)).to(x.device)
    return total.reshape([1 if dim in summed else size for dim, size in enumerate(x.shape)])


def _listed(dims: Sequence[int] | int | None) -> list[int]:
    return [dims] if isinstance(dims, int) else list(dims or ())


def _lane_mean(x: Tensor, dims: Sequence[int] | int | None, correction: float = 0) -> Tensor:
    total = lane_sum(x, dims)
    return total / max(x.numel() // max(total.numel(), 1) - correction, 0)


def _moments(x: Tensor, dims: Sequence[int] | int | None, correction: float = 0) -> tuple[Tensor, Tensor]:
    """Mean and variance, with all dimensions kept."""
    mean = _lane_mean(x, dims)
    return mean, _lane_mean((x - mean).square(), dims, correction)


def _reduced(kept: Tensor, dims: Sequence[int] | int | None, keepdim: bool) -> Tensor:
    if keepdim:
        return kept
    summed = tuple(_listed(dims)) or tuple(range(kept.dim()))
    return kept.squeeze(summed)


def _sum(x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    return _reduced(lane_sum(x, dim), dim, keepdim)


def _mean(x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    return _reduced(_lane_mean(x, dim), dim, keepdim)


def _var(x: Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False) -> Tensor:
    return _reduced(_moments(x, dim, 1 if correction is None else correction)[1], dim, keepdim)


def _std(x: Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False) -> Tensor:
    return _var(x, dim, correction=correction, keepdim=keepdim).sqrt()


def _group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, _n: int, _c: int, _hw: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    grouped = x.unflatten(1, (groups, -1)).flatten(2)
    mean, variance = _moments(grouped, -1)
    scale = (variance + eps).rsqrt()
    result = ((grouped - mean) * scale).reshape(x.shape)
    wide = (-1, *(1 for _ in x.shape[2:]))
    result = result if weight is None else result * weight.reshape(wide)
    result = result if bias is None else result + bias.reshape(wide)
    return result, mean.flatten(1), scale.flatten(1)


_REPLACEMENTS: dict[str, Callable[..., Any]] = {
    "mean": _mean, "native_group_norm": _group_norm, "std": _std, "sum": _sum, "var": _var,
}  # fmt: skip
