"""Small modules as simplified ONNX graphs, and how far these are from the modules."""

from collections import Counter

import onnx_ir as ir
import onnxruntime
import torch
from torch import nn

from tasks.actions.export_onnx.simplify import simplify
from tasks.actions.export_onnx.trace import trace
from tasks.settings.component import ComponentSpec
from tests.support.onnx_jobs import small_component

COMPONENT = ComponentSpec.from_params(small_component("Plain"))
SETTINGS = {"opset": 18, "constant_folding": True, "simplify": True, "dynamic_batch": False}


def exported(module: nn.Module, *, exporter: str = "dynamo", opset: int = 18, fp32: bool = True) -> ir.Model:
    settings = SETTINGS | {"exporter": exporter, "opset": opset}
    model = trace(module.eval(), component=COMPONENT, settings=settings)
    simplify(model, fp32=fp32)
    return model


def largest_error(model: ir.Model, module: nn.Module) -> float:
    """With respect to the module, over lengths other than the traced one."""
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    errors = []
    for frames in (4, 17, 40):
        x = torch.randn(2, 8, frames, generator=torch.Generator().manual_seed(frames))
        (found,) = session.run(None, {"x": x.numpy()})
        errors.append((torch.from_numpy(found) - module(x)).abs().max().item())
    return max(errors)


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)
