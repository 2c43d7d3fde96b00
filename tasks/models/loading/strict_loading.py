"""Puts checkpoint tensors into a module, all of them or none: names and shapes must agree and values be finite.

The module may have been built on the meta device, so that memory holds one copy of its weights and nothing else.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tasks.errors import UserError

LISTED_AT_MOST = 10


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], *, source: Path, within: str = "") -> None:
    """Replace the module's state by ``tensors``, copied out of the file; floating-point ones become fp32.

    Args:
        module: real or meta.
        tensors: state dict of the module, memory-mapped or not.
        source: the file they come from, for messages.
        within: what to put before the names in messages, ``"decoder.estimator."``.

    Raises:
        UserError: missing or unexpected names (the first ten are listed), a shape that differs, NaN or infinite values.
    """
    expected = module.state_dict()
    _check_names(expected, tensors, source, within)
    _check_shapes(expected, tensors, source, within)
    _check_kinds(expected, tensors, source, within)
    module.load_state_dict(_real_copies(tensors, source, within), strict=True, assign=True)
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())


def check_finite(name: str, tensor: Tensor, source: Path) -> None:
    """Refuse weights that training has broken.

    Raises:
        UserError: a value is NaN or infinite.
    """
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise UserError(
            "weights are not finite",
            where=source,
            value=f"{name}: {int((~torch.isfinite(tensor)).sum())} of {tensor.numel()} values are NaN or infinite",
            remedy="Use an earlier checkpoint: training had diverged when this one was saved",
        )


def _check_names(expected: Iterable[str], given: Iterable[str], source: Path, within: str) -> None:
    expected, given = list(expected), list(given)
    problems = [
        _listing(kind, [within + name for name in names])
        for kind, names in (
            ("missing", sorted(set(expected) - set(given))),
            ("unexpected", sorted(set(given) - set(expected))),
        )
        if names
    ]
    if problems:
        raise UserError(
            "the checkpoint does not fit the model that the configuration describes",
            where=source,
            value="; ".join(problems),
            remedy="Give the weights and the configuration of one and the same model",
        )


def _listing(kind: str, names: list[str]) -> str:
    shown = ", ".join(names[:LISTED_AT_MOST]) + (", ..." if len(names) > LISTED_AT_MOST else "")
    return f"{len(names)} {kind}: {shown}"


def _check_shapes(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], source: Path, within: str) -> None:
    differing = [name for name in expected if expected[name].shape != given[name].shape]
    if differing:
        shown = [
            f"{within}{name} is {tuple(given[name].shape)} in the file, {tuple(expected[name].shape)} in the model"
            for name in differing[:LISTED_AT_MOST]
        ]
        raise UserError(
            f"{len(differing)} tensors have another shape than the model",
            where=source,
            value="; ".join(shown),
            remedy="Give the weights and the configuration of one and the same model",
        )


def _check_kinds(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], source: Path, within: str) -> None:
    """Counters in floating point are let in: the published averaging makes them so."""
    for name, tensor in expected.items():
        if tensor.is_floating_point() and not given[name].is_floating_point():
            raise UserError(
                "a tensor holds another kind of numbers than the model",
                where=source,
                value=f"{within}{name} is {given[name].dtype} in the file, {tensor.dtype} in the model",
                remedy="Give weights in floating point; those quantized to integers cannot be exported",
            )


def _real_copies(tensors: Mapping[str, Tensor], source: Path, within: str) -> dict[str, Tensor]:
    """Copies that outlive the mapped file; tensors that shared memory (tied weights) share it again."""
    copies: dict[tuple[int, torch.Size, tuple[int, ...]], Tensor] = {}
    result = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if key not in copies:
            dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
            copies[key] = tensor.to(dtype, copy=True)
            check_finite(within + name, copies[key], source)
        result[name] = copies[key] if tensor.numel() else tensor.clone()
    return result
