"""Exports one component as an ONNX file and checks that the file is what was asked for.

Trace, simplify, convert to fp16 or bf16 where requested, write once, check. Why dynamo is the default exporter: it
refuses a branch on values, which torchscript freezes silently; its weights keep their names; its graphs have fewer
nodes at the same latency; PyTorch maintains it. It takes longer, and only torchscript writes opsets below 18.
"""

import gc
from collections import Counter
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from tasks.actions.export_onnx.check import check
from tasks.actions.export_onnx.low_precision import clamp_masks, convert, kept_nodes, require_types
from tasks.actions.export_onnx.low_precision_formats import LOW_PRECISIONS, LowPrecision
from tasks.actions.export_onnx.overflow import overflowing_nodes, require_finite
from tasks.actions.export_onnx.simplify import simplify
from tasks.actions.export_onnx.trace import trace
from tasks.actions.export_onnx.write import declare, provenance, write
from tasks.actions.inputs.generated import Padding, make_case, static_sizes
from tasks.actions.options import require_effective_options
from tasks.actions.original import load_original, unwrapped
from tasks.job import Job
from tasks.settings.component import ComponentSpec


def run(job: Job) -> dict[str, Any]:
    """Export the component of `job.params` from `config` and `weights` to `onnx`.

    Params:
        component: a `ComponentSpec`.
        precision: `name`, fp32, fp16 or bf16; the file takes and returns the same.
        onnx: opset, exporter, constant_folding, simplify, dynamic_batch, keep_fp32, external_data.

    Raises:
        UserError: an option without an effect; an opset or a module that the exporter cannot export; a file that is
            not as requested; a graph that the precision cannot hold; whatever the loader raises.
    """
    component = ComponentSpec.from_params(job.params["component"])
    settings, precision = job.params["onnx"], job.params["precision"]["name"]
    dynamic = component.dynamic_axes(dynamic_batch=settings["dynamic_batch"])
    low = LOW_PRECISIONS.get(precision)
    model, scales, samples = _traced(job, component)
    facts: dict[str, Any] = {"exporter": settings["exporter"]} | unwrapped(job.inputs["weights"])
    if low:
        facts |= _converted(model, low, component, settings["keep_fp32"], samples)
    about = provenance(component, job, scales)
    declare(model, component=component, dynamic=dynamic, about=about)
    write(model, job.outputs["onnx"], external_data=settings["external_data"])
    facts |= check(
        job.outputs["onnx"], component=component, precision=precision, opset=settings["opset"], dynamic=dynamic
    )
    if low:
        require_finite(job.outputs["onnx"], samples, low)
    return facts


def _traced(job: Job, component: ComponentSpec) -> tuple[ir.Model, dict[str, float], list[dict[str, Tensor]]]:
    """The simplified fp32 graph, its scaled weights, and inputs of the smallest and the usual size to try it with."""
    settings = job.params["onnx"]
    module: nn.Module = load_original(job, component)
    module.requires_grad_(False)
    require_effective_options(module, component)
    samples = _samples(component, module)
    model = trace(module, component=component, settings=settings)
    del module
    gc.collect()  # the exporter leaves reference cycles that keep the traced program alive
    scales = simplify(model, fp32=job.params["precision"]["name"] == "fp32") if settings["simplify"] else {}
    return model, scales, samples


def _samples(component: ComponentSpec, module: nn.Module) -> list[dict[str, Tensor]]:
    random, static = torch.Generator().manual_seed(0), static_sizes(module)
    return [
        make_case(component, component.sizes_at(bound) | static, padding=padding, random=random).inputs
        for bound, padding in (("min", Padding.random), ("opt", Padding.none))
    ]


def _converted(
    model: ir.Model,
    low: LowPrecision,
    component: ComponentSpec,
    keep: list[str],
    samples: list[dict[str, Tensor]],
) -> dict[str, Any]:
    require_types(model)
    clamped = clamp_masks(model, low)
    named = kept_nodes(model, keep, low)
    overflowing = overflowing_nodes(model, samples, low) if low.short_range else set()
    operators = Counter(node.op_type for node in named | overflowing)
    convert(model, named | overflowing, low, fp32_inputs=low.fp32_inputs(component))
    return {
        "nodes_kept_fp32": operators.total(),
        "operators_kept_fp32": dict(operators.most_common()),
        "kept_for_range": len(overflowing - named),
        "clamped_masks": clamped,
    }
