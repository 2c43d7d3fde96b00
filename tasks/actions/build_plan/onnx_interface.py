"""The interface of an ONNX file that a plan must have: inputs, outputs and the number formats it computes in.

Only the graph is read; weights in external files stay on disk.
"""

from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from tasks.errors import UserError
from tasks.settings.number_formats import BY_NAME, BY_ONNX, FORMATS, NumberFormat


@dataclass(frozen=True)
class OnnxTensor:
    """An input or output; a dimension is a size or the name of a dynamic one."""

    name: str
    dims: tuple[int | str, ...]
    format: str


@dataclass(frozen=True)
class OnnxInterface:
    """The interface of an ONNX file.

    Attributes:
        float_formats: every float format that occurs in weights, inputs, outputs or casts.
        precision: the format of most weights.
    """

    inputs: tuple[OnnxTensor, ...]
    outputs: tuple[OnnxTensor, ...]
    float_formats: frozenset[str]
    precision: str


def load_graph(path: Path) -> onnx.ModelProto:
    """The model without its external weights.

    Raises:
        UserError: if the file is no ONNX model.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as problem:
        raise UserError("not an ONNX model", where=path, value=str(problem), remedy="Export it again") from problem
    if not model.graph.output:
        raise UserError("an ONNX file without a graph", where=path, remedy="Export it again")
    return model


def describe_interface(model: onnx.ModelProto) -> OnnxInterface:
    """Its inputs (initializers listed as inputs left out), outputs and number formats."""
    stored = {weight.name for weight in model.graph.initializer}
    inputs = tuple(_tensor(value) for value in model.graph.input if value.name not in stored)
    outputs = tuple(_tensor(value) for value in model.graph.output)
    weights = _weights(model.graph)
    casts = {_format(a.i) for node in model.graph.node if node.op_type == "Cast" for a in node.attribute}
    interface = {tensor.format for tensor in (*inputs, *outputs)}
    floats = {_name(row) for row in FORMATS if row.is_float}
    usual = weights.most_common(1)[0][0] if weights else next(iter(sorted(interface & floats)), "")
    return OnnxInterface(inputs, outputs, frozenset((set(weights) | casts | interface) & floats), usual)


def _tensor(value: onnx.ValueInfoProto) -> OnnxTensor:
    kind = value.type.tensor_type
    dims = tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim)
    return OnnxTensor(value.name, dims, _format(kind.elem_type))


def _format(element_type: int) -> str:
    """TensorRT's name of an ONNX element type."""
    row = BY_ONNX.get(element_type)
    return _name(row) if row else f"ONNX type {element_type}"


def _name(row: NumberFormat) -> str:
    """TensorRT's name of a format; this project's where TensorRT has none."""
    return row.tensorrt or row.name.upper()


def _weights(graph: onnx.GraphProto) -> Counter[str]:
    """Elements stored in each float format."""
    counted: Counter[str] = Counter()
    for weight in graph.initializer:
        row = BY_ONNX.get(weight.data_type)
        if row and row.is_float:
            counted[_name(row)] += prod(weight.dims)
    return counted


def check_precision(graph: OnnxInterface, precision: str, *, where: Path) -> None:
    """A plan's precision is its graph's: no builder flag changes it.

    Raises:
        UserError: if the graph is stored in another format than the setting requests.
    """
    asked = _name(BY_NAME[precision]) if precision in BY_NAME else graph.precision
    if graph.precision != asked:
        raise UserError(
            f"precision={precision} asks for {asked}, but the graph's weights are {graph.precision}",
            where=where,
            remedy=f"Export the ONNX with precision={precision} first",
        )
