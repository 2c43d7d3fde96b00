"""Turns an fp32 ONNX graph into one that computes in fp16, except in the operators that must not.

Why not a library: onnxruntime.transformers.float16 (1.31) with operators to keep leaves casts after their readers and
two nodes of one name, so the file is refused; exporting module.half() leaves the choice to the module's code.
Here every tensor has one type, every tensor is cast at most once each way, and weights stay shared until written.
"""

import fnmatch
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from tasks.errors import UserError

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
LARGEST = float(np.finfo(np.float16).max)
MASK = 1e9  # constants this large are attention masks (-1e10, -3e38, -inf), not numbers to compute with
MASKED = -LARGEST / 2  # exp() of it is 0, and a score can be added to it
CARRIES = {"Mul", "Add", "Sub", "Div", "Neg", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Transpose", "Cast"}


def clamp_masks(model: ir.Model) -> list[str]:
    """Replace mask constants by one that fp16 has; the names of the changed constants.

    Raises:
        UserError: a constant that is not a mask is beyond fp16, or a weight is not finite.
    """
    changed = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype != FLOAT:
            continue
        array = tensor.numpy()
        if np.isnan(array).any():
            raise UserError("holds NaN", where=value.name or "", remedy="Export from another checkpoint")
        masks = np.abs(array) >= MASK
        if masks.any():
            value.const_value = ir.tensor(np.where(masks, np.sign(array) * -MASKED, array).astype(np.float32))
            changed.append(value.name or "")
    return changed


def kept_nodes(model: ir.Model, keep: Sequence[str]) -> set[ir.Node]:
    """The nodes that stay in fp32: named by type or pattern, without an fp16 form, or computing an angle.

    The angles of a kept Sin or Cos: near 1000 rad, where a time embedding takes its sines, fp16 numbers are 0.5 apart.

    Raises:
        UserError: an entry is neither an operator nor the name of a node.
    """
    _require_known(model, keep)
    kept = {node for node in model.graph if _is_named(node, keep) or not _has_half_form(node)}
    for node in list(kept):
        if node.op_type in {"Sin", "Cos"}:
            kept.update(_elementwise_before(node))
    return kept


def require_types(model: ir.Model) -> None:
    """Infer what every tensor is; the conversion depends on it."""
    common.ShapeInferencePass()(model)
    untyped = [node.name for node in model.graph for output in node.outputs if output.name and output.dtype is None]
    if untyped:
        raise RuntimeError(f"no type could be inferred for the outputs of {', '.join(map(str, untyped[:5]))}")


def to_half(model: ir.Model, kept: set[ir.Node]) -> None:
    """Convert the graph in place, its inputs and outputs included."""
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    outputs = [value for value in model.graph.outputs if value.dtype == FLOAT]
    for given in model.graph.inputs:
        _retype(given, HALF)
    floats = {output for node in model.graph for output in node.outputs if output.dtype == FLOAT}
    for node in list(model.graph):  # without the casts that are added meanwhile
        type_ = FLOAT if node in kept else HALF
        for index, value in enumerate(list(node.inputs)):
            if value is not None and _is_float(value):
                wanted = type_ if _takes_half(node, index) else FLOAT
                node.replace_input_with(index, _as_type(model, value, wanted, before=node, casts=casts))
        _retype_attributes(node, type_)
        for output in node.outputs:
            if output in floats:
                _retype(output, type_)
    _half_outputs(model, outputs, casts)
    common.RemoveUnusedNodesPass()(model)  # the fp32 weights that nothing reads any more


def _require_known(model: ir.Model, keep: Sequence[str]) -> None:
    """A misspelt entry would keep nothing and say nothing."""
    names = [node.name or "" for node in model.graph]
    for entry in keep:
        if not onnx.defs.has(entry) and not fnmatch.filter(names, entry):
            operators = sorted({node.op_type for node in model.graph})
            raise UserError(
                "neither an operator nor the name of a node",
                where="onnx.keep_fp32",
                value=entry,
                remedy=f"Use names of nodes, with * for many, or operators; this graph has {', '.join(operators)}",
            )


def _is_named(node: ir.Node, keep: Sequence[str]) -> bool:
    return node.op_type in keep or any(fnmatch.fnmatchcase(node.name or "", pattern) for pattern in keep)


def _has_half_form(node: ir.Node) -> bool:
    schema = _schema(node)
    subgraphs = {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}
    if schema is None or any(attribute.type in subgraphs for attribute in node.attributes.values()):
        return False
    return any("tensor(float16)" in parameter.types for parameter in schema.outputs) or not _is_float(node.outputs[0])


def _schema(node: ir.Node) -> onnx.defs.OpSchema | None:
    version = node.version or (node.graph.opset_imports.get(node.domain) if node.graph is not None else None)
    if version is None or not onnx.defs.has(node.op_type, version, node.domain):
        return None
    return onnx.defs.get_schema(node.op_type, version, node.domain)


def _elementwise_before(node: ir.Node) -> Iterator[ir.Node]:
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if producer is not None and producer.op_type in CARRIES:
            yield producer
            yield from _elementwise_before(producer)


def _retype(value: ir.Value, type_: ir.DataType) -> None:
    if value.dtype == FLOAT:
        value.dtype = type_


def _is_float(value: ir.Value) -> bool:
    return value.dtype in {FLOAT, HALF}


def _takes_half(node: ir.Node, index: int) -> bool:
    """Whether the operator's schema lets this input be fp16; Resize's scales, for one, are always fp32."""
    schema = _schema(node)
    return schema is not None and "tensor(float16)" in schema.inputs[min(index, len(schema.inputs) - 1)].types


def _as_type(
    model: ir.Model,
    value: ir.Value,
    type_: ir.DataType,
    *,
    before: ir.Node,
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value],
) -> ir.Value:
    if value.dtype == type_:
        return value
    if (value, type_) not in casts:
        casts[value, type_] = (
            _half_weight(model, value)
            if value.is_initializer() and type_ == HALF
            else _cast(model, value, type_, before=before)
        )
    return casts[value, type_]


def _half_weight(model: ir.Model, value: ir.Value) -> ir.Value:
    tensor = value.const_value
    if tensor is None or value.name is None:
        raise RuntimeError(f"initializer {value.name} has no data")
    with np.errstate(over="ignore"):
        array = tensor.numpy().astype(np.float16)
    if not np.isfinite(array).all():
        reader = next(iter(value.uses())).node
        raise UserError(
            "a constant is beyond fp16's largest number, 65504",
            where=f"{reader.op_type} {reader.name}, {value.name}",
            value=float(np.abs(tensor.numpy()).max()),
            remedy=f"Keep the node in fp32: onnx.keep_fp32=[...,'{reader.name}']",
        )
    half = ir.Value(name=f"{value.name}.fp16", type=ir.TensorType(HALF), shape=value.shape)
    half.const_value = ir.tensor(array, name=half.name)
    model.graph.register_initializer(half)
    return half


def _cast(model: ir.Model, value: ir.Value, type_: ir.DataType, *, before: ir.Node) -> ir.Value:
    """A cast right after what it casts, so that it stands before all its readers."""
    name = f"{value.name}.{'fp16' if type_ == HALF else 'fp32'}"
    node = ir.node("Cast", [value], {"to": type_.value}, name=f"cast.{name}")
    node.outputs[0].name, node.outputs[0].dtype, node.outputs[0].shape = name, type_, value.shape
    producer = value.producer()
    if producer is not None:
        model.graph.insert_after(producer, node)
    else:
        model.graph.insert_before(before, node)
    return node.outputs[0]


def _retype_attributes(node: ir.Node, type_: ir.DataType) -> None:
    if type_ != HALF:
        return
    if node.op_type == "Cast" and node.attributes["to"].as_int() == FLOAT.value:
        node.attributes["to"] = ir.AttrInt64("to", HALF.value)
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == FLOAT:
            array = attribute.as_tensor().numpy().clip(-LARGEST, LARGEST).astype(np.float16)
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))


def _half_outputs(model: ir.Model, floats: list[ir.Value], casts: dict[tuple[ir.Value, ir.DataType], ir.Value]) -> None:
    for index, value in enumerate(list(model.graph.outputs)):
        producer = value.producer()
        if value in floats and value.dtype == FLOAT and producer is not None:
            name, value.name = value.name, f"{value.name}.fp32"
            half = _as_type(model, value, HALF, before=producer, casts=casts)
            half.name = name
            model.graph.outputs[index] = half
