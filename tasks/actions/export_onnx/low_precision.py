"""Turns an fp32 ONNX graph into one that computes in fp16 or bf16, except in the operators that must not.

Why not a library: onnxruntime.transformers.float16 (1.31) with operators to keep leaves casts after their readers and
two nodes of one name, so the file is refused; exporting module.half() leaves the choice to the module's code.
Here every tensor has one type, every tensor is cast at most once each way, and weights stay shared until written.
"""

import fnmatch
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from tasks.actions.export_onnx.low_precision_formats import LowPrecision
from tasks.errors import UserError, listed

FLOAT = ir.DataType.FLOAT
EXACT = {"Sin", "Cos", "Range"}  # what leads to them is computed as exactly as they are
CARRIES = {"Mul", "Add", "Sub", "Div", "Neg", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Transpose", "Cast"}


def clamp_masks(model: ir.Model, low: LowPrecision) -> list[str]:
    """Replace mask constants by one that the format has; the names of the changed constants.

    Raises:
        UserError: a weight is not finite.
    """
    changed = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype != FLOAT:
            continue
        array = tensor.numpy()
        if np.isnan(array).any():
            raise UserError("contains NaN", where=value.name or "", remedy="Export from another checkpoint")
        masks = np.abs(array) >= low.mask_threshold
        if masks.any():
            value.const_value = ir.tensor(np.where(masks, np.sign(array) * -low.mask_value, array).astype(np.float32))
            changed.append(value.name or "")
    return changed


def kept_nodes(model: ir.Model, keep: Sequence[str], low: LowPrecision) -> set[ir.Node]:
    """The nodes that stay in fp32: named by type or pattern, without a 16-bit form, or computing an angle or a count.

    The angles of a kept Sin or Cos: near 1000 rad, where a time embedding takes its sines, fp16 numbers are 0.5 apart.
    The counts of a Range: fp16 has no 2049 and bf16 no 257, so as many positions would not be made.
    Without a 16-bit form in this opset: below 22 no Conv takes bf16.

    Raises:
        UserError: an entry is neither an operator nor the name of a node.
    """
    _require_known(model, keep)
    kept = {node for node in model.graph if _is_named(node, keep) or not _has_form(node, low)}
    for node in list(kept):
        if node.op_type in EXACT:
            kept.update(_elementwise_before(node))
    return kept


def require_types(model: ir.Model) -> None:
    """Infer what every tensor is; the conversion depends on it."""
    common.ShapeInferencePass()(model)
    untyped = [node.name for node in model.graph for output in node.outputs if output.name and output.dtype is None]
    if untyped:
        raise RuntimeError(f"no type could be inferred for the outputs of {listed(untyped, 5)}")


def convert(
    model: ir.Model, kept: set[ir.Node], low: LowPrecision, *, fp32_inputs: Collection[str] = frozenset()
) -> None:
    """Convert the graph in place, its inputs and outputs included, but for the inputs named."""
    work = _Conversion(model, low)
    outputs = [value for value in model.graph.outputs if value.dtype == FLOAT]
    for given in model.graph.inputs:
        if given.name not in fp32_inputs:
            _retype(given, low.type)
    floats = {output for node in model.graph for output in node.outputs if output.dtype == FLOAT}
    for node in list(model.graph):  # without the casts that are added meanwhile
        type_ = FLOAT if node in kept else low.type
        for index, value in enumerate(list(node.inputs)):
            if value is not None and value.dtype in {FLOAT, low.type}:
                wanted = type_ if _takes(node, index, low) else FLOAT
                node.replace_input_with(index, work.as_type(value, wanted, before=node))
        if node not in kept:
            _retype_attributes(node, low)
        for output in node.outputs:
            if output in floats:
                _retype(output, type_)
    _convert_outputs(work, outputs)
    common.RemoveUnusedNodesPass()(model)  # the fp32 weights that nothing reads any more


@dataclass
class _Conversion:
    """A graph under conversion, with every tensor that was cast already."""

    model: ir.Model
    low: LowPrecision
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = field(default_factory=dict)

    def as_type(self, value: ir.Value, type_: ir.DataType, *, before: ir.Node) -> ir.Value:
        if value.dtype == type_:
            return value
        if (value, type_) not in self.casts:
            self.casts[value, type_] = (
                self._convert_weight(value)
                if value.is_initializer() and type_ == self.low.type
                else self._cast(value, type_, before=before)
            )
        return self.casts[value, type_]

    def _convert_weight(self, value: ir.Value) -> ir.Value:
        tensor = value.const_value
        if tensor is None or value.name is None:
            raise RuntimeError(f"initializer {value.name} has no data")
        with np.errstate(over="ignore"):
            array = tensor.numpy().astype(self.low.numpy)
        if not np.isfinite(array).all():
            reader = next(iter(value.uses())).node
            raise UserError(
                f"a constant is beyond {self.low.name}'s largest number, {self.low.largest:.6g}",
                where=f"{reader.op_type} {reader.name}, {value.name}",
                value=float(np.abs(tensor.numpy()).max()),
                remedy=f"Keep the node in fp32: onnx.keep_fp32=[...,'{reader.name}']",
            )
        converted = ir.Value(name=f"{value.name}.{self.low.name}", type=ir.TensorType(self.low.type), shape=value.shape)
        converted.const_value = ir.tensor(array, name=converted.name)
        self.model.graph.register_initializer(converted)
        return converted

    def _cast(self, value: ir.Value, type_: ir.DataType, *, before: ir.Node) -> ir.Value:
        """A cast right after what it casts, so that it stands before all its readers."""
        name = f"{value.name}.{'fp32' if type_ == FLOAT else self.low.name}"
        node = ir.node("Cast", [value], {"to": type_.value}, name=f"cast.{name}")
        node.outputs[0].name, node.outputs[0].dtype, node.outputs[0].shape = name, type_, value.shape
        producer = value.producer()
        if producer is not None:
            self.model.graph.insert_after(producer, node)
        else:
            self.model.graph.insert_before(before, node)
        return node.outputs[0]


def _require_known(model: ir.Model, keep: Sequence[str]) -> None:
    """A misspelt entry would silently keep nothing."""
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


def _has_form(node: ir.Node, low: LowPrecision) -> bool:
    schema = _schema(node)
    subgraphs = {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}
    if schema is None or any(attribute.type in subgraphs for attribute in node.attributes.values()):
        return False
    return any(low.schema in parameter.types for parameter in schema.outputs) or node.outputs[0].dtype != FLOAT


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


def _takes(node: ir.Node, index: int, low: LowPrecision) -> bool:
    """Whether the operator's schema allows 16 bits for this input; Resize's scales, for one, are always fp32."""
    schema = _schema(node)
    return schema is not None and low.schema in schema.inputs[min(index, len(schema.inputs) - 1)].types


def _retype_attributes(node: ir.Node, low: LowPrecision) -> None:
    if node.op_type == "Cast" and node.attributes["to"].as_int() == FLOAT.value:
        node.attributes["to"] = ir.AttrInt64("to", low.type.value)
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == FLOAT:
            array = attribute.as_tensor().numpy().clip(-low.largest, low.largest).astype(low.numpy)
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))


def _convert_outputs(work: _Conversion, floats: list[ir.Value]) -> None:
    outputs = work.model.graph.outputs
    for index, value in enumerate(list(outputs)):
        producer = value.producer()
        if value in floats and value.dtype == FLOAT and producer is not None:
            name, value.name = value.name, f"{value.name}.fp32"
            converted = work.as_type(value, work.low.type, before=producer)
            converted.name = name
            outputs[index] = converted
