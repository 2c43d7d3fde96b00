"""From a model's axes to the shapes of each input at min, opt and max: what TensorRT calls an optimization profile."""

from collections.abc import Mapping
from typing import Any

from tasks.actions.build_plan.onnx_interface import OnnxInterface, OnnxTensor
from tasks.errors import UserError
from tasks.settings.component import ComponentSpec
from tasks.settings.shape_profiles import Profile, complete_profiles

Shape = tuple[int, ...]
Bounds = tuple[Shape, Shape, Shape]


def profile_shapes(
    graph: OnnxInterface, component: ComponentSpec, settings: Mapping[str, Any]
) -> list[dict[str, Bounds]]:
    """For each profile, the (min, opt, max) shapes of every input with a dynamic dimension.

    Raises:
        UserError: graph and declaration disagree.
    """
    _check_names(graph, component)
    profiles = complete_profiles(component.axes, settings)
    shapes = [_shapes(graph, component, profile) for profile in profiles]
    return [each for each in shapes if each]


def _check_names(graph: OnnxInterface, component: ComponentSpec) -> None:
    for role, tensors, wanted in (
        ("inputs", graph.inputs, component.inputs),
        ("outputs", graph.outputs, component.outputs),
    ):
        names, declared = [tensor.name for tensor in tensors], list(wanted)
        if sorted(names) != sorted(declared):
            raise UserError(f"the graph's {role} are not the declared ones", value=f"{names} for {declared}")


def _shapes(graph: OnnxInterface, component: ComponentSpec, profile: Profile) -> dict[str, Bounds]:
    shapes = {}
    for tensor in graph.inputs:
        declared = component.inputs[tensor.name].shape
        if len(declared) != len(tensor.dims):
            value = f"{list(tensor.dims)} for {list(declared)}"
            raise UserError("the graph's input has another rank than declared", where=tensor.name, value=value)
        ranges = [_range(tensor, index, axis, profile) for index, axis in enumerate(declared)]
        if any(isinstance(dim, str) for dim in tensor.dims):
            low, usual, high = zip(*ranges, strict=True)
            shapes[tensor.name] = (low, usual, high)
    return shapes


def _range(tensor: OnnxTensor, index: int, axis: int | str, profile: Profile) -> tuple[int, int, int]:
    size, wanted = tensor.dims[index], profile.get(str(axis))
    where = f"{tensor.name}, dimension {index}"
    if isinstance(size, str):
        if wanted is None:
            raise UserError("the graph has a dynamic dimension that is declared static", where=where, value=size)
        return wanted
    if wanted and wanted != (size, size, size):
        raise UserError(
            f"the graph has {axis} fixed at {size}, the profile asks for {list(wanted)}",
            where=where,
            remedy=f"Export with {axis} dynamic (onnx.dynamic_batch=true for the batch) or leave it out of the profile",
        )
    return size, size, size
