"""The weights in an ONNX file, as they are stored."""

import json
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor

from tasks.runtimes.base import StoredWeight

SCALES = "voxkiln.scales"  # metadata: weight -> what the exporter has multiplied it by
BF16 = ir.DataType.BFLOAT16


def stored_weights(path: Path) -> list[StoredWeight]:
    """Initializers and constants of floats with more than one element."""
    model = ir.load(path)
    scales: dict[str, float] = json.loads(model.metadata_props.get(SCALES, "{}"))
    return [
        StoredWeight(name, _tensor(tensor), scales.get(name) or scales.get(name.rpartition(".")[0], 1.0))
        for name, tensor in _tensors(model)
        if tensor.dtype.is_floating_point() and tensor.size > 1
    ]


def _tensors(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            yield name, value.const_value
    for node in model.graph:
        if node.op_type == "Constant" and "value" in node.attributes:
            yield node.outputs[0].name or "", node.attributes["value"].as_tensor()


def _tensor(tensor: ir.TensorProtocol) -> Tensor:
    array = tensor.numpy()
    if tensor.dtype == BF16:  # numpy has no bfloat16 of its own
        return torch.from_numpy(array.view("int16").copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())
