"""Loads checkpoint tensors into a module: names and shapes must match exactly and all values must be finite.

The module may be on the meta device, so that memory holds only one copy of its weights.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tasks.errors import UserError, listed, shortened_name
from tasks.models.loading.mapped_pages import MappedPages


def load_strictly(
    module: nn.Module, tensors: Mapping[str, Tensor], *, source: Path, within: str = "", described: str = ""
) -> None:
    """Replace the state of ``module`` by copies of ``tensors``; floating-point tensors are converted to fp32.

    Args:
        module: on a real or the meta device.
        tensors: state dict for the module, memory-mapped or not; of tied weights one is enough.
        source: file of the tensors, for error messages.
        within: prefix of the tensor names in error messages, e.g. ``"decoder.estimator."``.
        described: for error messages, what describes the module: ``"model.yaml:12, LanguageModel"``.

    Raises:
        UserError: names are missing or unexpected (the first ten are listed), shapes differ, or values are NaN or
            infinite.
    """
    expected, tensors = module.state_dict(), _with_tied(module, tensors)
    _check_names(expected, tensors, source, within, described)
    _check_shapes(module, tensors, source, within, described)
    _check_dtypes(expected, tensors, source, within)
    module.load_state_dict(_real_copies(tensors, source, within), strict=True, assign=True)
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())


def check_finite(name: str, tensor: Tensor, source: Path) -> None:
    """Require finite weights.

    Raises:
        UserError: a value is NaN or infinite.
    """
    if tensor.is_floating_point() and not all_finite(tensor):
        raise UserError(
            "weights are not finite",
            where=source,
            value=f"{name}: {int((~torch.isfinite(tensor)).sum())} of {tensor.numel()} values are NaN or infinite",
            remedy="Use an earlier checkpoint, saved before the training diverged",
        )


def all_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite. A sum tells it in a tenth of the time, unless it overflows."""
    if tensor.itemsize >= 4 and torch.isfinite(tensor.sum()):
        return True
    return bool(torch.isfinite(tensor).all())


def _with_tied(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, and those that a file leaves out because the module ties them to one that it has."""
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    result = dict(tensors)
    for names in groups.values():
        saved = next((name for name in names if name in tensors), None)
        if saved is not None:
            result |= {name: tensors[saved] for name in names if name not in tensors}
    return result


def _check_names(expected: Iterable[str], given: Iterable[str], source: Path, within: str, described: str) -> None:
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
            "the checkpoint does not match the model that the configuration describes",
            where=source,
            value="; ".join(problems),
            remedy=_same_model(described),
        )


def _same_model(described: str) -> str:
    remedy = "Use weights and configuration of the same model"
    return f"{remedy}; this one is described in {described}" if described else remedy


def _listing(kind: str, names: list[str]) -> str:
    return f"{len(names)} {kind}: {listed(names)}"


def _check_shapes(module: nn.Module, given: Mapping[str, Tensor], source: Path, within: str, described: str) -> None:
    expected = module.state_dict()
    differing = [name for name in expected if expected[name].shape != given[name].shape]
    _require_gathered([name for name in differing if given[name].shape == (0,)], source, within)
    if differing:
        cause, remedy = _explained(module, given, differing)
        shown = [
            f"{shortened_name(within + name)} is {tuple(given[name].shape)} in the file, "
            f"{tuple(expected[name].shape)} in the model"
            for name in differing
        ]
        raise UserError(
            f"{len(differing)} tensors have another shape than the model",
            where=source,
            value=cause or listed(shown, separator="; "),
            remedy=remedy or _same_model(described),
        )


def _require_gathered(empty: list[str], source: Path, within: str) -> None:
    if empty:
        raise UserError(
            "has placeholders without values, as DeepSpeed ZeRO-3 leaves them where it keeps weights in pieces",
            where=source,
            value=_listing("of shape (0,)", [within + name for name in empty]),
            remedy="Join the pieces by zero_to_fp32.py, which DeepSpeed puts into the folder of the checkpoint, and "
            "give the result",
        )


def _explained(module: nn.Module, given: Mapping[str, Tensor], differing: list[str]) -> tuple[str, str]:
    """What the submodule that has all of the differing tensors makes of their shapes, if it can explain them."""
    for name, part in module.named_modules():
        prefix = f"{name}." if name else ""
        explain = getattr(part, "explain_shapes", None)
        if explain and all(one.startswith(prefix) for one in differing):
            shapes = {one.removeprefix(prefix): given[one].shape for one in given if one.startswith(prefix)}
            cause, remedy = explain(shapes)
            if cause:
                return cause, remedy
    return "", ""


def _check_dtypes(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], source: Path, within: str) -> None:
    """Floating-point counters are accepted: the original averaging script converts integer tensors to float."""
    for name, tensor in expected.items():
        if tensor.is_floating_point() and not given[name].is_floating_point():
            raise UserError(
                "a tensor has no floating-point dtype where the model has one",
                where=source,
                value=f"{within}{name} is {given[name].dtype} in the file, {tensor.dtype} in the model",
                remedy="Use floating-point weights; integer-quantized weights are not supported",
            )


def _real_copies(tensors: Mapping[str, Tensor], source: Path, within: str) -> dict[str, Tensor]:
    """Copies that do not depend on the mapped file; tied weights, which shared memory, share it again."""
    copies: dict[tuple[int, torch.Size, tuple[int, ...]], Tensor] = {}
    result, pages = {}, MappedPages(source)
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if key not in copies:
            dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
            copies[key] = tensor.to(dtype, copy=True)
            check_finite(within + name, copies[key], source)
            pages.give_back(tensor)
        result[name] = copies[key] if tensor.numel() else tensor.clone()
    return result
