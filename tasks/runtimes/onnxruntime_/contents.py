"""What an ONNX file contains: its weights as they are stored, and the formats it computes in."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from torch import Tensor

from tasks.errors import UserError, reason
from tasks.runtimes.base import Contents, StoredWeight
from tasks.settings.number_formats import BY_NAME, BY_ONNX

SCALES = "voxkiln.scales"  # metadata: weight -> what the exporter has multiplied it by
QUANTIZED = ("quantize", "dequantize", "dynamicquantize", "qlinear")  # beginnings of operators
CHOOSES_FORMAT = {"to", "dtype"}  # attributes of Cast, Random..., EyeLike and others


def contents(path: Path) -> Contents:
    """Initializers and constants; data in a file beside it is read when it is needed.

    Raises:
        UserError: the file is not an ONNX model.
    """
    try:
        return _contents_of(onnx.load(path, load_external_data=False), path.parent)
    except (DecodeError, ValueError) as error:  # also numbers that stand for no type, and scales that are no JSON
        what, remedy = "is not an ONNX file", "Build it again: doit export_onnx"
        raise UserError(what, where=path, value=reason(error), remedy=remedy) from error


def _contents_of(model: ModelProto, folder: Path) -> Contents:
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    scales: dict[str, float] = json.loads(metadata.get(SCALES, "{}"))
    read = set(_read_names(model.graph))
    weights = [
        StoredWeight(str(name), partial(_values, tensor, folder), _scale(scales, str(name)))
        for name, tensor in _tensors(model.graph)
        if name in read and _format(tensor.data_type) and any(size > 1 for size in tensor.dims)
    ]
    formats = {name for type_ in _element_types(model.graph) if (name := _format(type_))}
    return Contents(
        weights, formats | {f"integers ({node.op_type})" for node in _nodes(model.graph) if _is_quantized(node)}
    )


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph, and of the graphs inside them."""
    for node in graph.node:
        yield node
        for inner in _inner(node):
            yield from _nodes(inner)


def _inner(node: NodeProto) -> Iterator[GraphProto]:
    yield from (each.g for each in node.attribute if each.type == AttributeProto.GRAPH)


def _tensors(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            yield from ((node.output[0], each.t) for each in node.attribute if each.type == AttributeProto.TENSOR)
        for inner in _inner(node):
            yield from _tensors(inner)


def _read_names(graph: GraphProto) -> Iterator[str]:
    """What is read: a weight that only lies in the file shows nothing."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for inner in _inner(node):
            yield from _read_names(inner)


def _is_quantized(node: NodeProto) -> bool:
    name = str(node.op_type)  # names that are not UTF-8 are bytes; the runtime refuses such a file
    return name.lower().startswith(QUANTIZED) or name.endswith("Integer")


def _values(tensor: TensorProto, folder: Path) -> Tensor:
    array = numpy_helper.to_array(tensor, str(folder))
    if tensor.data_type == BY_NAME["bf16"].onnx:  # numpy has no bfloat16 of its own
        return torch.from_numpy(array.view("int16").copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def _scale(scales: dict[str, float], name: str) -> float:
    return scales.get(name) or scales.get(name.rpartition(".")[0], 1.0)


def _format(element_type: int) -> str:
    """The name of a format of floats; empty for other types."""
    if known := BY_ONNX.get(element_type):
        return known.name if known.is_float else ""
    name: str = TensorProto.DataType.Name(element_type).lower()
    return name if "float" in name else ""


def _element_types(graph: GraphProto) -> Iterator[int]:
    yield from (tensor.data_type for tensor in graph.initializer)
    yield from (value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output))
    for node in graph.node:
        yield from _types_in(node)


def _types_in(node: NodeProto) -> Iterator[int]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield from _element_types(attribute.g)
        elif attribute.type == AttributeProto.TENSOR:
            yield attribute.t.data_type
        elif attribute.type == AttributeProto.INT and attribute.name in CHOOSES_FORMAT:
            yield attribute.i
