"""Looks up a graph's operators in the table of those that TensorRT's parser reads; problems name the modules."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx

from tasks.actions.export_onnx.module_names import module_of
from tasks.actions.preflight.operator_table import load_table
from tasks.errors import listed
from tasks.settings.number_formats import BY_ONNX

TABLE = load_table()
SOURCE = f"TensorRT {TABLE.version}"
STANDARD = ("", "ai.onnx")
SHOWN = 3


@dataclass(frozen=True)
class OperatorCheck:
    """Lines about operators: `problems` stop a build, `warnings` may."""

    problems: list[str]
    warnings: list[str]


def check_operators(model: onnx.ModelProto) -> OperatorCheck:
    """Every operator of the graph, of its subgraphs and of its functions."""
    local = {(function.domain, function.name) for function in model.functions}
    nodes = [node for node in _nodes(model) if (node.domain, node.op_type) not in local]
    problems = _grouped((_why_not(node), node) for node in nodes)
    warnings = [*_grouped(_formats(model, nodes)), *_opset(model)]
    return OperatorCheck(problems, warnings)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from _inside(model.graph.node)
    for function in model.functions:
        yield from _inside(function.node)


def _inside(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _inside(graph.node)


def _why_not(node: onnx.NodeProto) -> str:
    if node.domain not in STANDARD:
        return f"{node.domain}::{node.op_type} is not a standard operator and needs a plugin"
    if node.op_type not in TABLE.formats:
        return f"{node.op_type} is not supported by {SOURCE}"
    return ""


def _formats(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> Iterator[tuple[str, onnx.NodeProto]]:
    """Operators whose output is of a format that the table does not have for them."""
    values = [*model.graph.value_info, *model.graph.output]
    formats = {value.name: BY_ONNX.get(value.type.tensor_type.elem_type) for value in values}
    for node in nodes:
        found = formats.get(node.output[0] if node.output else "")
        name = found.name.upper() if found else ""  # as the table writes it
        known = TABLE.formats.get(node.op_type)
        if known and name and name not in known and not (name == "BOOL" and node.op_type in COMPARISONS):
            yield f"{node.op_type} produces {name}; {SOURCE} supports only {', '.join(sorted(known))}", node


# their table rows list the formats they compare, the result is always BOOL
COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsInf", "IsNaN")


def _grouped(found: Iterable[tuple[str, onnx.NodeProto]]) -> list[str]:
    """One line per reason, with the modules it concerns."""
    places: dict[str, list[str]] = {}
    for reason, node in found:
        if reason:
            places.setdefault(reason, []).append(origin(node))
    return [f"{reason} (in {listed(dict.fromkeys(modules), SHOWN)})" for reason, modules in places.items()]


def origin(node: onnx.NodeProto) -> str:
    """The module an operation came from, if the file has it; else the name of the node or of its output."""
    notes = {entry.key: entry.value for entry in node.metadata_props}
    return module_of(notes, node.name) or node.name or next(iter(node.output), "?")


def _opset(model: onnx.ModelProto) -> Iterator[str]:
    version = max((entry.version for entry in model.opset_import if entry.domain in STANDARD), default=0)
    if version not in TABLE.opsets:
        covered = f"{TABLE.opsets.start} to {TABLE.opsets.stop - 1}"
        yield f"opset {version} is not in {SOURCE}'s operator table ({covered}); later versions may support it"
