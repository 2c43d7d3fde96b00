"""Emulates a bf16 ONNX graph on engines without bf16 kernels: the same numbers, stored as fp32.

A bf16 number is an fp32 number whose last 16 bits are zero. So each operator computes in fp32 on such numbers and its
result is rounded to bf16 and back, which is what a bf16 kernel with fp32 sums does.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

FLOAT, BF16 = ir.DataType.FLOAT, ir.DataType.BFLOAT16
# The outputs of these are rounded already if their inputs are.
MOVES = {
    "Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze", "Where",
}  # fmt: skip


def write_emulation(path: Path, emulation: Path) -> bool:
    """Write the emulation of a bf16 file, weights beside it; False, and nothing is written, if the file is not bf16.

    Raises:
        ValueError: the graph has branches or loops.
    """
    model = ir.load(path)
    ends = (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values())
    if not any(value.dtype == BF16 for value in ends):
        return False
    ir.save(emulated(model), emulation, external_data=f"{emulation.name}.data")  # one file is limited to 2 GB
    return True


def emulated(model: ir.Model) -> ir.Model:
    """Change a graph in place to its emulation; inputs and outputs stay bf16. Weights are converted when written.

    Raises:
        ValueError: the graph has branches or loops.
    """
    graph = model.graph
    if any(True for _ in graph.subgraphs()):
        raise ValueError("a bf16 graph with branches or loops cannot be emulated")
    common.ShapeInferencePass()(model)  # a file need not have the types inside
    nodes = list(graph)  # without the casts that are added meanwhile
    for value in graph.initializers.values():
        _weight_to_fp32(value)
    for node in nodes:
        _attributes_to_fp32(node)
        for output in node.outputs:
            if output.dtype == BF16:
                _round(graph, node, output)
    for given in graph.inputs:
        if given.dtype == BF16 and nodes:
            _read_as_float(graph, given, before=nodes[0])
    return model


def _weight_to_fp32(value: ir.Value) -> None:
    tensor = value.const_value
    if tensor is None or tensor.dtype != BF16:
        return
    shape = ir.Shape(tensor.numpy().shape)
    value.const_value = ir.LazyTensor(lambda: _to_fp32(tensor), dtype=FLOAT, shape=shape, name=value.name)
    value.dtype = FLOAT


def _to_fp32(tensor: ir.TensorProtocol) -> ir.Tensor:
    return ir.Tensor(tensor.numpy().astype(np.float32))


def _attributes_to_fp32(node: ir.Node) -> None:
    if node.op_type == "Cast" and node.attributes["to"].as_int() == BF16.value:
        node.attributes["to"] = ir.AttrInt64("to", FLOAT.value)
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == BF16:
            node.attributes[name] = ir.AttrTensor(name, _to_fp32(attribute.as_tensor()))


def _round(graph: ir.Graph, node: ir.Node, output: ir.Value) -> None:
    """Let all readers have the output rounded. A graph's output is the rounded number while it is bf16."""
    output.dtype = FLOAT
    if node.op_type in MOVES and not output.is_graph_output():
        return
    readers = list(output.uses())
    to_bf16 = _cast(output, BF16, name=f"{output.name}.bf16")
    rounded = to_bf16.outputs[0]
    back = _cast(rounded, FLOAT, name=f"{output.name}.rounded")
    graph.insert_after(node, [to_bf16, back])
    _replace_in(readers, back.outputs[0])
    for index, value in enumerate(list(graph.outputs)):
        if value is output:
            rounded.name, output.name = output.name, f"{output.name}.wide"
            graph.outputs[index] = rounded


def _read_as_float(graph: ir.Graph, given: ir.Value, *, before: ir.Node) -> None:
    readers = list(given.uses())
    cast = _cast(given, FLOAT, name=f"{given.name}.wide")
    graph.insert_before(before, cast)
    _replace_in(readers, cast.outputs[0])


def _replace_in(readers: Sequence[tuple[ir.Node, int]], value: ir.Value) -> None:
    for node, index in readers:
        node.replace_input_with(index, value)


def _cast(value: ir.Value, type_: ir.DataType, *, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": type_.value}, name=name)
    output = node.outputs[0]
    output.name, output.dtype, output.shape = name, type_, value.shape
    return node
