"""Estimates the memory of a graph's activations at given sizes, from shape inference alone.

The peak of what is alive while operators run in the graph's order. TensorRT fuses operators and shares memory, so a
plan needs less; how it grows with the sizes is the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

from tasks.settings.component import ComponentSpec
from tasks.settings.number_formats import BY_ONNX
from tasks.settings.shape_profiles import Profile, corners

SMALL_WEIGHT_BYTES = 1024  # small ones are shapes and axes, which shape inference reads
VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten"}  # return the memory of their input
UNKNOWN_BYTES = 4  # of an element in a format that is not in the table
WORTH_A_WARNING = 2**30
STEEP = 4.0


@dataclass(frozen=True)
class Peak:
    """Bytes alive at once, the largest tensor among all, and how many tensors have unknown sizes."""

    peak: int
    largest: str
    largest_bytes: int
    unknown_sizes: int

    def summary(self) -> dict[str, Any]:
        mib = {"peak_mib": self.peak / 2**20, "largest_mib": self.largest_bytes / 2**20}
        return {key: round(size, 1) for key, size in mib.items()} | {
            "largest": self.largest,
            "unknown_sizes": self.unknown_sizes,
        }


@dataclass(frozen=True)
class ProfileMemory:
    """The peaks of a profile's corners: "min", "opt", "max", as far as they differ."""

    index: int
    corners: Mapping[str, Peak]

    def summary(self) -> dict[str, Any]:
        return {name: peak.summary() for name, peak in self.corners.items()}

    def warnings(self) -> list[str]:
        if not {"opt", "max"} <= set(self.corners):
            return []
        usual, most = self.corners["opt"].peak, self.corners["max"].peak
        if most < WORTH_A_WARNING or most < STEEP * usual:
            return []
        return [
            f"profile {self.index}: activations take up to {most / 2**30:.1f} GiB per context at its maximum, "
            f"{usual / 2**30:.2f} GiB at its optimum; a second profile for the long inputs keeps the usual ones small"
        ]


def estimate_profiles(
    model: onnx.ModelProto, component: ComponentSpec, profiles: Sequence[Profile]
) -> list[ProfileMemory]:
    """The peaks at every corner of every profile."""
    bare = _without_weights(model)
    return [
        ProfileMemory(index, {name: _peak(_sized(bare, component, sizes)) for name, sizes in corners(profile).items()})
        for index, profile in enumerate(profiles)
    ]


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which large weights have only name, type and shape; they are never copied themselves."""
    bare, graph = onnx.ModelProto(), model.graph
    bare.ir_version = model.ir_version
    bare.opset_import.extend(model.opset_import)
    bare.functions.extend(model.functions)
    for field in ("node", "input", "output", "value_info"):
        getattr(bare.graph, field).extend(getattr(graph, field))
    bare.graph.name = graph.name
    bare.graph.initializer.extend(_without_data(weight) for weight in graph.initializer)
    return bare


def _without_data(weight: onnx.TensorProto) -> onnx.TensorProto:
    if len(weight.raw_data) <= SMALL_WEIGHT_BYTES:
        return weight
    return onnx.TensorProto(name=weight.name, data_type=weight.data_type, dims=weight.dims)


def _sized(bare: onnx.ModelProto, component: ComponentSpec, sizes: Mapping[str, int]) -> onnx.ModelProto:
    """The model with every axis replaced by its size, and all shapes inferred from there."""
    model = onnx.ModelProto()
    model.CopyFrom(bare)
    del model.graph.value_info[:]
    for value in model.graph.input:
        declared = component.shapes.get(value.name, ())
        for dim, axis in zip(value.type.tensor_type.shape.dim, declared, strict=False):
            if dim.dim_param:
                dim.dim_value = sizes[str(axis)]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return _inferred(model)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """Shapes by ONNX's inference, or where it leaves some open by ONNX Runtime's, which computes with values.

    Neither suffices alone: the second stops at operators that it does not know, with any kind of exception.
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    if not _unknown(inferred):
        return inferred
    try:
        calculated: onnx.ModelProto = SymbolicShapeInference.infer_shapes(model, 2**31 - 1, True, False, 0)
    except Exception:
        return inferred
    return calculated if len(_unknown(calculated)) < len(_unknown(inferred)) else inferred


def _sizes(model: onnx.ModelProto) -> dict[str, int | None]:
    return {value.name: _bytes(value) for value in [*model.graph.value_info, *model.graph.output]}


def _unknown(model: onnx.ModelProto) -> list[str]:
    sizes = _sizes(model)
    return [name for node in model.graph.node for name in node.output if name and sizes.get(name) is None]


def _peak(model: onnx.ModelProto) -> Peak:
    sizes = _sizes(model)
    root = _roots(model)
    last_use = {root.get(name, name): at for at, node in enumerate(model.graph.node) for name in node.input}
    made = [[n for n in node.output if n and n not in root] for node in model.graph.node]
    ends: dict[int, list[str]] = {}
    for at, names in enumerate(made):
        for name in names:
            ends.setdefault(last_use.get(name, at), []).append(name)
    alive = peak = 0
    for at, names in enumerate(made):
        alive += sum(sizes.get(name) or 0 for name in names)
        peak = max(peak, alive)
        alive -= sum(sizes.get(name) or 0 for name in ends.get(at, []))
    largest = max(sizes, key=lambda name: sizes[name] or 0, default="")
    return Peak(peak, largest, sizes.get(largest) or 0, len(_unknown(model)))


def _roots(model: onnx.ModelProto) -> dict[str, str]:
    """Views -> the tensor whose memory they share."""
    root: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in VIEWS:
            root[node.output[0]] = root.get(node.input[0], node.input[0])
    return root


def _bytes(value: onnx.ValueInfoProto) -> int | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape") or any(not dim.HasField("dim_value") for dim in kind.shape.dim):
        return None
    row = BY_ONNX.get(kind.elem_type)
    return prod(dim.dim_value for dim in kind.shape.dim) * (row.bytes if row else UNKNOWN_BYTES)
