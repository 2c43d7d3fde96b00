"""Cases of recorded inputs: files of tensors named ``INPUT``, or ``CALL/INPUT`` for several calls in one file.

A call longer than the artifact takes is cut; one that still does not fit is left out, with the reason. Arguments that
are no tensors must be what the component's options fix.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.actions.inputs.generated import InputCase, dtype_of
from tasks.errors import UserError, shortened
from tasks.job import RECORDED
from tasks.models.loading.checkpoint_file import open_dict
from tasks.runtimes.base import Shapes
from tasks.settings.component import ComponentSpec, Kind


def recorded_cases(
    inputs: Mapping[str, Path], component: ComponentSpec, *, fixed: Shapes, first: int
) -> tuple[list[InputCase], list[str]]:
    """Cases numbered from `first` on for the files among a job's `inputs`, and why the others are left out.

    Args:
        fixed: sizes that the artifact fixes, see Runtime.shapes.

    Raises:
        UserError: a file is not readable, lacks an input, has one of another shape or with NaN or Inf, or was recorded
            with other options.
    """
    files = [path for role, path in inputs.items() if role.startswith(RECORDED)]
    calls = [
        (f"{path.name}{f': {call}' if call else ''}", path, given) for path in files for call, given in _calls(path)
    ]
    cases: list[InputCase] = []
    left_out: list[str] = []
    for name, path, given in calls:
        tensors = _declared(given, component, where=path, call=name)
        sizes = _sizes(tensors, component, where=path, call=name)
        tensors, sizes = _cut(tensors, sizes, component)
        if misfit := _misfit(sizes, component, component.fixed_sizes(fixed)):
            left_out.append(f"{name}: {misfit}")
        else:
            cases.append(InputCase(first + len(cases), sizes, tensors, source=name))
    return cases, left_out


def _calls(path: Path) -> list[tuple[str, dict[str, Any]]]:
    calls: dict[str, dict[str, Any]] = {}
    for key, value in open_dict(path).items():
        call, _, name = str(key).rpartition("/")
        calls.setdefault(call, {})[name] = value
    if not calls:
        raise _unusable(path, f"{path.name} has no call", "Record again, or leave this file out")
    return list(calls.items())


def _declared(given: Mapping[str, Any], component: ComponentSpec, *, where: Path, call: str) -> dict[str, Tensor]:
    """The component's inputs in its order: floats in fp32, integers as declared, all finite."""
    missing = [name for name in component.inputs if given.get(name) is None]
    if missing:
        raise _unusable(where, f"{call} has no {', '.join(missing)}", f"Record all of {', '.join(component.inputs)}")
    for name, value in given.items():
        if name not in component.inputs:
            _require_option(name, value, component, where=where, call=call)
    tensors = {}
    for name, declared in component.inputs.items():
        if not isinstance(given[name], Tensor) or given[name].layout != torch.strided:
            raise _unusable(where, f"{call}: {name} is no dense tensor", "Record again")
        tensors[name] = given[name].to(dtype_of(declared))
        if not tensors[name].isfinite().all():
            raise _unusable(where, f"{call}: {name} has NaN or Inf", "Record again")
    return tensors


def _require_option(name: str, value: Any, component: ComponentSpec, *, where: Path, call: str) -> None:
    """An argument beside the inputs is a constant in the artifact; further tensors, such as outputs, do not matter."""
    if isinstance(value, Tensor) and not (name in component.options and value.numel() == 1):
        return
    value = value.item() if isinstance(value, Tensor) else value
    shown = f"{name}={shortened(repr(value), 100)}"
    if name in component.options and value != component.options[name]:
        fixed = f"{component.name} is exported with {name}={component.options[name]}"
        other = component.option_setting(name, value)
        remedy = f"Export it with {other}, or record with {name}={component.options[name]}"
        raise _unusable(where, f"{call} has {shown}, {fixed}", remedy)
    if name not in component.options and value is not None:
        options = ", ".join(component.options) or "none"
        remedy = f"Leave it out, or set it in {component.setting}.options (there is {options})"
        raise _unusable(where, f"{call} has {shown}, which is neither an input nor an option", remedy)


def _sizes(tensors: Mapping[str, Tensor], component: ComponentSpec, *, where: Path, call: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        shape = component.inputs[name].shape
        agrees = tensor.dim() == len(shape) and all(
            (sizes.setdefault(axis, size) if isinstance(axis, str) else axis) == size
            for axis, size in zip(shape, tensor.shape, strict=True)
        )
        if not agrees:
            raise _unusable(where, f"{call}: {name} is {list(tensor.shape)}, declared {list(shape)}", "Record again")
    return sizes


def _cut(
    tensors: dict[str, Tensor], sizes: dict[str, int], component: ComponentSpec
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The beginning of a call, up to the largest size of each axis; not where an input has lengths of the whole."""
    if component.of_kind(Kind.lengths):
        return tensors, sizes
    kept = {axis: min(size, component.axes[axis].max) for axis, size in sizes.items() if axis in component.axes}
    short = dict(tensors)
    for name, declared in component.inputs.items():
        for dim, axis in enumerate(declared.shape):
            if isinstance(axis, str) and axis in kept:
                short[name] = short[name].narrow(dim, 0, kept[axis])
    return short, sizes | kept


def _misfit(sizes: Mapping[str, int], component: ComponentSpec, pinned: Mapping[str, int]) -> str:
    for axis, size in sizes.items():
        bounds = component.axes.get(axis)
        if axis in pinned and size != pinned[axis]:
            return f"{axis}={size}, the artifact takes {pinned[axis]}"
        if bounds and not bounds.min <= size <= bounds.max:
            return f"{axis}={size}, allowed {bounds.min} to {bounds.max}"
        if bounds and size % bounds.multiple_of:
            return f"{axis}={size}, allowed multiples of {bounds.multiple_of}"
    return ""


def _unusable(where: Path, value: str, remedy: str) -> UserError:
    return UserError("recorded inputs cannot be used", where=where, value=value, remedy=remedy)
