"""Writes a graph to an ONNX file: declared names of axes, provenance, the same bytes for the same graph.

Weights lie in the file itself up to protobuf's 2 GB, else in one `X.onnx.data` beside it.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common

from tasks.actions.export_onnx.module_names import MODULE, module_of
from tasks.actions.export_onnx.wire_format import GRAPH, INITIALIZER, RAW_DATA, head
from tasks.errors import UserError
from tasks.job import Job
from tasks.runtimes.onnxruntime_.contents import SCALES
from tasks.settings.component import ComponentSpec, Shape

EMBEDDED_LIMIT = (1 << 31) - (1 << 26)  # protobuf's 2 GiB with room for the graph itself


def provenance(component: ComponentSpec, job: Job, scales: Mapping[str, float]) -> dict[str, str]:
    """Where a file comes from; no times and no version of this project, so that equal inputs give equal bytes.

    Args:
        scales: what weights were multiplied by, which verification needs to recompute them.
    """
    return {
        "voxkiln.step": job.step,
        "voxkiln.component": component.name,
        "voxkiln.options": json.dumps(component.options, sort_keys=True),  # for example whether it is for streaming
        "voxkiln.precision": job.params["precision"]["name"],
        "voxkiln.exporter": job.params["onnx"]["exporter"],
        "voxkiln.weights_sha256": job.digest("weights")[:16],
        "voxkiln.torch": torch.__version__,
        SCALES: json.dumps(scales, sort_keys=True),
    }


def declare(model: ir.Model, *, component: ComponentSpec, dynamic: Collection[str], about: Mapping[str, str]) -> None:
    """Name axes as declared, remove the exporter's notes about source files, add the provenance `about`."""
    shapes = component.shapes
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.name in shapes:
            value.shape = _declared(value, shapes[value.name], dynamic)
    _clear_notes(model)
    model.ir_version = _oldest_ir_version(model)
    model.graph.name = component.name
    model.producer_name, model.producer_version = "voxkiln", None  # a new version need not change the bytes
    model.metadata_props.update(sorted(about.items()))


def _oldest_ir_version(model: ir.Model) -> int:
    """The lowest version of the file format that the opset needs: runtimes refuse higher ones than they know."""
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    return int(onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True))


def _clear_notes(model: ir.Model) -> None:
    """Remove what the exporter wrote about source files; keep the module an operation came from."""
    modules = {node: module_of(node.metadata_props, node.name or "") for node in model.graph.all_nodes()}
    common.ClearMetadataAndDocStringPass()(model)
    for node, module in modules.items():
        if module:
            node.metadata_props[MODULE] = module


def write(model: ir.Model, path: Path, *, external_data: str) -> None:
    """Save the model, which loses its weights; `external_data` is auto or always."""
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if external_data == "always" or size > EMBEDDED_LIMIT:
        ir.save(model, path, external_data=f"{path.name}.data")
    else:
        _write_embedded(model, path)


def _write_embedded(model: ir.Model, path: Path) -> None:
    """One file, written weight by weight: protobuf's own way takes three times the weights in memory."""
    weights = list(model.graph.initializers.values())
    model.graph.initializers.clear()
    proto = ir.to_proto(model)
    graph = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    described = [_described(weight) for weight in weights]
    size = sum(len(before) + _data(weight).nbytes for before, weight in zip(described, weights, strict=True))
    with path.open("wb") as file:
        file.write(proto.SerializeToString(deterministic=True))
        file.write(head(GRAPH, len(graph) + size) + graph)
        for before, weight in zip(described, weights, strict=True):
            file.write(before)
            file.write(_data(weight).tobytes())
            weight.const_value = None  # some pass keeps the last graph alive


def _described(weight: ir.Value) -> bytes:
    """What stands before the data of a weight: the field of the graph, name, shape and dtype."""
    data = _data(weight)
    proto = onnx.TensorProto(name=weight.name, dims=data.shape.numpy(), data_type=data.dtype)
    described = proto.SerializeToString(deterministic=True) + head(RAW_DATA, data.nbytes)
    return head(INITIALIZER, len(described) + data.nbytes) + described


def _data(weight: ir.Value) -> ir.TensorProtocol:
    if weight.const_value is None or weight.name is None:
        raise RuntimeError(f"the weight {weight.name} has no data")
    return weight.const_value


def _declared(value: ir.Value, shape: Shape, dynamic: Collection[str]) -> ir.Shape:
    """The exporter's shape under the declared names.

    Raises:
        UserError: an axis asked to be dynamic was fixed by the exporter.
    """
    if value.shape is None or len(value.shape) != len(shape):
        raise UserError("has another rank than declared", where=str(value.name), value=str(value.shape))
    dims: list[int | str | None] = []
    for found, wanted in zip(value.shape.dims, shape, strict=True):
        if wanted in dynamic and isinstance(found, int):
            raise UserError(
                f"the axis {wanted} was fixed by the exporter",
                where=str(value.name),
                value=found,
                remedy="The module uses its size as a constant; make it use tensor.size() instead",
            )
        dims.append(
            wanted if wanted in dynamic or isinstance(wanted, int) else found if isinstance(found, int) else str(wanted)
        )
    return ir.Shape(dims)
