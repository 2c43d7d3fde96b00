"""A plan's inputs and outputs: names, shapes, dtypes and the bounds of every profile, read from its engine.

Also checks a call's shapes against the profiles before anything is launched.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tasks.errors import UserError
from tasks.runtimes.base import torch_dtype
from tasks.settings.number_formats import BY_TENSORRT

DTYPE_OF_FORMAT = {name: torch_dtype(row) for name, row in BY_TENSORRT.items()}
LONGEST_NAME = 128  # characters of INetworkDefinition.name
Shape = tuple[int, ...]


@dataclass(frozen=True)
class PlanTensor:
    """One input or output; a size of -1 is dynamic.

    Attributes:
        bounds: for an input, its (min, opt, max) shapes in each profile.
        axes: the name of each dimension's axis, empty where it is static or unknown.
    """

    name: str
    shape: Shape
    dtype: torch.dtype
    bounds: tuple[tuple[Shape, Shape, Shape], ...]
    axes: tuple[str, ...]


@dataclass(frozen=True)
class PlanInterface:
    """A plan's inputs and outputs in the order of the module it replaces."""

    inputs: tuple[PlanTensor, ...]
    outputs: tuple[PlanTensor, ...]
    profiles: int


def label(component: str, shapes: Mapping[str, Sequence[int | str]]) -> str:
    """The text stored in a plan as its network's name, so that error messages can name axes.

    ``small.estimator frames:x.2,mask.2`` means that dimension 2 of x and of mask is the axis frames. TensorRT has no
    other place for it and allows 128 characters: axes that do not fit are left out.

    Args:
        shapes: input -> sizes, and names of axes where the graph is dynamic.
    """
    places: dict[str, list[str]] = {}
    for name, dims in shapes.items():
        for index, dim in enumerate(dims):
            if isinstance(dim, str):
                places.setdefault(dim, []).append(f"{name}.{index}")
    words = [component, *(f"{axis}:{','.join(found)}" for axis, found in places.items())]
    return " ".join(word for index, word in enumerate(words) if len(" ".join(words[: index + 1])) <= LONGEST_NAME)


def read_interface(trt: Any, engine: Any) -> PlanInterface:
    """An engine's inputs, outputs and profiles, in the engine's order."""
    axes = _axes(engine.name)
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    tensors = {name: _tensor(engine, name, axes, trt) for name in names}
    is_input = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
    return PlanInterface(
        inputs=tuple(tensors[name] for name in names if is_input[name]),
        outputs=tuple(tensors[name] for name in names if not is_input[name]),
        profiles=engine.num_optimization_profiles,
    )


def _axes(name: str) -> dict[str, str]:
    """ "x.2" -> "frames", from the label in this project's plans; other plans may have any name."""
    pairs = (word.partition(":") for word in name.split())
    return {place: axis for axis, _, places in pairs for place in places.split(",") if place}


def _tensor(engine: Any, name: str, axes: Mapping[str, str], trt: Any) -> PlanTensor:
    shape = tuple(engine.get_tensor_shape(name))
    kind = engine.get_tensor_dtype(name).name
    if kind not in DTYPE_OF_FORMAT:
        raise UserError("the plan uses a number format that PyTorch does not have", where=name, value=kind)
    profiles = engine.num_optimization_profiles if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else 0
    bounds = tuple(_bounds(engine, name, shape, index) for index in range(profiles))
    return PlanTensor(
        name, shape, DTYPE_OF_FORMAT[kind], bounds, tuple(axes.get(f"{name}.{dim}", "") for dim in range(len(shape)))
    )


def _bounds(engine: Any, name: str, shape: Shape, profile: int) -> tuple[Shape, Shape, Shape]:
    if -1 not in shape:
        return shape, shape, shape
    low, opt, high = (tuple(dims) for dims in engine.get_tensor_profile_shape(name, profile))
    return low, opt, high


def choose_profile(interface: PlanInterface, shapes: Mapping[str, Shape]) -> int:
    """The first profile whose bounds include all the shapes.

    Raises:
        UserError: naming the input, its dimension, the bound it violates and the setting that changes it; or the inputs
            that disagree about the size of an axis.
    """
    problems = [_problem(interface, shapes, profile) for profile in range(interface.profiles)]
    if None not in problems:
        value = "; ".join(dict.fromkeys(problem for problem in problems if problem))
        remedy = "Keep the sizes within the bounds or build a plan with wider ones"
        raise UserError("no profile of the plan fits this call", where="TensorRT plan", value=value, remedy=remedy)
    if unequal := "; ".join(_disagreements(interface, shapes)):
        remedy = "Pad them to the same size"
        raise UserError("the inputs' sizes contradict each other", where="TensorRT plan", value=unequal, remedy=remedy)
    return problems.index(None)


def _problem(interface: PlanInterface, shapes: Mapping[str, Shape], profile: int) -> str | None:
    several = interface.profiles > 1
    where, setting = (f"profile {profile}: ", f"tensorrt.profiles[{profile}]") if several else ("", "tensorrt.profile")
    for tensor in interface.inputs:
        shape = shapes[tensor.name]
        if len(shape) != len(tensor.shape):
            return f"{tensor.name} has {len(shape)} dimensions instead of {len(tensor.shape)}"
        low, _, high = tensor.bounds[profile]
        for dim, size in enumerate(shape):
            if not low[dim] <= size <= high[dim]:
                return where + _out_of_bounds(tensor, dim, size, low[dim], high[dim], setting=setting)
    return None


def _out_of_bounds(tensor: PlanTensor, dim: int, size: int, low: int, high: int, *, setting: str) -> str:
    if tensor.shape[dim] != -1:
        hint = ", fixed in its ONNX file; onnx.dynamic_batch=true makes the batch dynamic"
        return f"{tensor.name} has {size} in dimension {dim} where the plan has {low}{hint}"
    axis = tensor.axes[dim]
    bound = f"below the minimum {low}" if size < low else f"above the maximum {high}"
    source = f" of {setting}.{axis}" if axis else ""
    return f"{tensor.name} has {size} {axis or 'elements'} in dimension {dim}, {bound}{source}"


def _disagreements(interface: PlanInterface, shapes: Mapping[str, Shape]) -> Iterator[str]:
    """Axes with different sizes; TensorRT would fail during the call, with a message that names no axis."""
    sizes: dict[str, dict[int, str]] = {}
    for tensor in interface.inputs:
        for axis, size in zip(tensor.axes, shapes[tensor.name], strict=True):
            if axis:
                sizes.setdefault(axis, {}).setdefault(size, tensor.name)
    for axis, seen in sizes.items():
        if len(seen) > 1:
            yield f"{axis} is {' and '.join(f'{size} in {name}' for size, name in seen.items())}"
