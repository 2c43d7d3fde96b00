"""Checks that an ONNX file is what was asked for: valid, with the opset, names, axes and formats of the component."""

import math
import mmap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from tasks.actions.export_onnx.low_precision_formats import LOW_PRECISIONS
from tasks.actions.export_onnx.wire_format import GRAPH, INITIALIZER, RAW_DATA, fields, head, numbers
from tasks.errors import UserError, reason
from tasks.settings.component import ComponentSpec, Shape
from tasks.settings.number_formats import BY_NAME, BY_ONNX

SMALL_BYTES = 2**16  # of what may be the sizes that shape inference reads
DESCRIBING = numbers(onnx.TensorProto, "dims", "data_type", "name")
OTHER_EXPORTER = "Try another onnx.exporter or onnx.simplify=false, and report it"


def check(
    path: Path, *, component: ComponentSpec, precision: str, opset: int, dynamic: Mapping[str, Any]
) -> dict[str, Any]:
    """Read the file back and compare it with what was asked; returns what is in it, for the receipt.

    Raises:
        UserError: the file is invalid, or differs in opset, names, axes or number format; names both values.
    """
    try:
        model, weights = _read(path)
        _check_graph(path, model, weights)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, DecodeError, ValueError) as error:
        raise UserError(
            "is not a valid ONNX graph", where=path.name, value=reason(error), remedy=OTHER_EXPORTER
        ) from error
    _require(path, "opset", opset, _opset(model), remedy="Set onnx.exporter=torchscript for opsets below 18")
    _require_tensors(path, model.graph.input, {name: x.shape for name, x in component.inputs.items()}, dynamic)
    _require_tensors(path, model.graph.output, component.outputs, dynamic)
    _require_precision(path, model, component, precision)
    return _described(path, model)


def _read(path: Path) -> tuple[onnx.ModelProto, list[onnx.TensorProto]]:
    """The model in a file without its large weights, and these without their values: so little is in memory."""
    weights: list[onnx.TensorProto] = []
    rest, graph = bytearray(), bytearray()
    for number, content, field in fields(_mapped(path)):
        if number != GRAPH:
            rest += field
            continue
        for inner_number, tensor, inner_field in fields(content):
            if inner_number == INITIALIZER and len(tensor) > SMALL_BYTES:
                weights.append(_without_values(tensor))
            else:
                graph += inner_field
    return onnx.ModelProto.FromString(bytes(rest + head(GRAPH, len(graph)) + graph)), weights


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _without_values(tensor: memoryview) -> onnx.TensorProto:
    found = list(fields(tensor))
    described = b"".join(field for number, _, field in found if number in DESCRIBING)
    result: onnx.TensorProto = onnx.TensorProto.FromString(described)
    size = math.prod(result.dims) * onnx.helper.tensor_dtype_to_np_dtype(result.data_type).itemsize
    there = sum(len(content) for number, content, _ in found if number == RAW_DATA)
    if there != size:
        raise ValueError(f"the weight {result.name} has {there} bytes in place of {size}")
    return result


def _check_graph(path: Path, model: onnx.ModelProto, weights: list[onnx.TensorProto]) -> None:
    """With the large weights as inputs: what is valid does not depend on their values."""
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        onnx.checker.check_model(str(path), full_check=True)  # only the path leads to the file beside it
        return
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    graph.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in weights
    )
    onnx.checker.check_model(graph, full_check=True)


def _described(path: Path, model: onnx.ModelProto) -> dict[str, Any]:
    operators = Counter(node.op_type for node in model.graph.node)
    data = path.with_name(f"{path.name}.data")
    return {
        "nodes": len(model.graph.node),
        "operators": dict(operators.most_common(12)),
        "opset": _opset(model),
        "ir_version": model.ir_version,
        "bytes": path.stat().st_size + (data.stat().st_size if data.exists() else 0),
        "external_data": data.exists(),
        "inputs": {value.name: _dims(value) for value in model.graph.input},
        "outputs": {value.name: _dims(value) for value in model.graph.output},
    }


def _opset(model: onnx.ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})


def _require_tensors(path: Path, values: Any, wanted: Mapping[str, Shape], dynamic: Mapping[str, Any]) -> None:
    _require(path, "names", list(wanted), [value.name for value in values], remedy=OTHER_EXPORTER)
    for value in values:
        for position, (size, found) in enumerate(zip(wanted[value.name], _dims(value), strict=True)):
            if size in dynamic or isinstance(size, int):
                _require(path, f"axis {position} of {value.name}", size, found, remedy=OTHER_EXPORTER)


def _dims(value: onnx.ValueInfoProto) -> list[int | str]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_param or ("?" if not dim.HasField("dim_value") else dim.dim_value) for dim in dims]


def _require_precision(path: Path, model: onnx.ModelProto, component: ComponentSpec, precision: str) -> None:
    in_fp32 = LOW_PRECISIONS[precision].fp32_inputs(component) if precision in LOW_PRECISIONS else frozenset()
    for value in (*model.graph.input, *model.graph.output):
        found = BY_ONNX.get(value.type.tensor_type.elem_type)
        if found and found.is_float:
            wanted = BY_NAME["fp32" if value.name in in_fp32 else precision]
            _require(path, f"number format of {value.name}", wanted.name, found.name, remedy=OTHER_EXPORTER)


def _require(path: Path, what: str, wanted: Any, found: Any, *, remedy: str) -> None:
    if wanted != found:
        raise UserError(
            f"{what} in the file is not as requested",
            where=path.name,
            value=f"{found}, asked for {wanted}",
            remedy=remedy,
        )
