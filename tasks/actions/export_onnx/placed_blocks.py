"""Puts copies of a block that was traced once in the places of the blocks that are like it."""

import ast
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir
from torch import Tensor

from tasks.actions.export_onnx.module_names import SCOPES
from tasks.actions.export_onnx.repeated_blocks import AGAIN, DOMAIN, ENTER, LEAVE

GRAPHS = {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}


def place(model: ir.Model, weights: Mapping[str, Tensor]) -> None:
    """Replace all operators of `repeated_blocks`; in place.

    Args:
        weights: of the traced module, by name; those of blocks that were not traced are not in the graph yet.

    Raises:
        ValueError: a block cannot be copied.
    """
    graph = model.graph
    marked = [node for node in graph if node.domain == DOMAIN]
    bodies: dict[int, _Body] = {}
    copies: Counter[str] = Counter()  # of each block, which may be called several times
    for node in marked:
        if node.op_type == AGAIN:
            call, traced = _number(node, "call"), node.attributes["traced"].as_string()
            body = bodies.get(call) or bodies.setdefault(call, _body(graph, marked, call, traced, weights))
            block = node.attributes["block"].as_string()
            copies[block] += 1
            _put(graph, body, node, block, weights, suffix=f"{block}.{copies[block]}")
    for node in marked:
        if node.op_type != AGAIN:
            ir.convenience.replace_all_uses_with(node.outputs[0], _given(node), replace_graph_outputs=True)
        graph.remove(node, safe=True)
    model.opset_imports.pop(DOMAIN, None)
    graph.opset_imports.pop(DOMAIN, None)


@dataclass(frozen=True)
class _Body:
    """What is between the markers of a block.

    Attributes:
        block: its name.
        weights: names of its weights and buffers.
        entered: the values that it is given and reads, by their place among all that it is given.
        nodes: in the order of the graph.
        left: the values that it returns and that are read, by their place.
    """

    block: str
    weights: Collection[str]
    entered: dict[int, ir.Value]
    nodes: list[ir.Node]
    left: dict[int, ir.Value]


def _body(graph: ir.Graph, marked: Iterable[ir.Node], call: int, block: str, weights: Collection[str]) -> _Body:
    own = [node for node in marked if node.op_type != AGAIN and _number(node, "call") == call]
    entered = {_number(node, "index"): node.outputs[0] for node in own if node.op_type == ENTER}
    left = {_number(node, "index"): _given(node) for node in own if node.op_type == LEAVE}
    weights = {name for name in weights if name.startswith(f"{block}.")}
    nodes = _nodes_between(graph, set(entered.values()), left.values(), weights)
    return _Body(block, weights, entered, nodes, left)


def _nodes_between(
    graph: ir.Graph, entered: set[ir.Value], left: Iterable[ir.Value], weights: Collection[str]
) -> list[ir.Node]:
    """The nodes that lead to what is left and depend on what is entered or on the block's weights."""
    depends, dependent = set(entered), set[ir.Node]()
    for each in graph:
        if any(value in depends or value.name in weights for value in each.inputs if value is not None):
            depends.update(each.outputs)
            dependent.add(each)
    needed: set[ir.Node] = set()
    waiting = [value.producer() for value in left]
    while waiting:
        node = waiting.pop()
        if node is not None and node in dependent and node not in needed:
            needed.add(node)
            waiting += [value.producer() for value in node.inputs if value is not None and value not in entered]
    return [node for node in graph if node in needed]


def _put(
    graph: ir.Graph, body: _Body, place: ir.Node, block: str, weights: Mapping[str, Tensor], *, suffix: str
) -> None:
    values = {value: place.inputs[index] for index, value in body.entered.items()}
    for node in body.nodes:
        for value in node.inputs:
            if value is not None and value not in values:
                values[value] = _counterpart(graph, value, body, block, weights)
        graph.insert_before(place, _copy(node, values, body.block, block, suffix))
    for index, value in body.left.items():
        if (new := values.get(value)) is None:
            raise ValueError(f"output {index} of {body.block} does not depend on it")
        ir.convenience.replace_all_uses_with(place.outputs[index], new, replace_graph_outputs=True)


def _counterpart(graph: ir.Graph, value: ir.Value, body: _Body, block: str, weights: Mapping[str, Tensor]) -> ir.Value:
    """The weight of the same name in another block; the value itself where it is none, but a constant for example."""
    if value.name is None or value.name not in body.weights:
        return value
    name = f"{block}{value.name.removeprefix(body.block)}"
    if name not in graph.initializers:
        tensor = ir.tensor_adapters.TorchTensor(weights[name], name=name)
        graph.register_initializer(
            ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        )
    return graph.initializers[name]


def _copy(node: ir.Node, values: dict[ir.Value, ir.Value | None], traced: str, block: str, suffix: str) -> ir.Node:
    if any(attribute.type in GRAPHS for attribute in node.attributes.values()):
        raise ValueError(f"{node.name} has a graph inside")
    copy = ir.Node(
        node.domain,
        node.op_type,
        [None if value is None else values[value] for value in node.inputs],
        node.attributes.values(),
        overload=node.overload,
        num_outputs=len(node.outputs),
        version=node.version,
        name=f"{node.name}.{suffix}",
        metadata_props=_renamed(node.metadata_props, traced, block),
    )
    for old, new in zip(node.outputs, copy.outputs, strict=True):
        new.name, new.type, new.shape = f"{old.name}.{suffix}", old.type, old.shape and old.shape.copy()
        values[old] = new
    return copy


def _renamed(notes: Mapping[str, str], traced: str, block: str) -> dict[str, str]:
    """The notes of the exporter with the modules around an operation."""
    scopes = [
        f"{block}{scope.removeprefix(traced)}" if f"{scope}.".startswith(f"{traced}.") else scope
        for scope in ast.literal_eval(notes.get(SCOPES, "[]"))
    ]
    return {**notes, SCOPES: repr(scopes)} if scopes else dict(notes)


def _given(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    if value is None:
        raise ValueError(f"{node.name} has no input")
    return value


def _number(node: ir.Node, name: str) -> int:
    return node.attributes[name].as_int()
