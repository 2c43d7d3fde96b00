"""Exports one component as an ONNX file that is proven to be what was asked for.

Trace, simplify, convert to fp16 or bf16 if asked, write once, check. Why dynamo is the default exporter, on
CosyVoice 2's full-size estimator at opset 18, one thread:

                 nodes   CPU time   peak     ONNX Runtime at (2, 80, 500)
    dynamo       1,805   26 s       1.4 GB   1,095 ms (eager PyTorch: 1,900 ms)
    torchscript  2,256   17 s       1.6 GB   1,079 ms

It refuses a branch on values, which torchscript bakes in without a word; its weights keep their names; PyTorch still
works on it. Only torchscript writes opsets below 18.
"""

import gc
from collections import Counter
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from tasks.actions.export_onnx.check import check
from tasks.actions.export_onnx.low_precision import clamp_masks, convert, kept_nodes, require_types
from tasks.actions.export_onnx.low_precision_formats import LOW_PRECISIONS, LowPrecision
from tasks.actions.export_onnx.overflow import overflowing_nodes, require_finite
from tasks.actions.export_onnx.simplify import simplify
from tasks.actions.export_onnx.trace import dynamic_axes, trace
from tasks.actions.export_onnx.write import declare, provenance, write
from tasks.actions.inputs.generated import make_trial, static_sizes
from tasks.errors import UserError
from tasks.job import Job

PRECISIONS = ("fp32", *LOW_PRECISIONS)


def run(job: Job) -> dict[str, Any]:
    """Export the component of `job.params` from `config` and `weights` to `onnx`.

    Params:
        component: declaration with `name`, `loader`, `inputs`, `outputs`, `axes`, `options`.
        precision: `name`, fp32, fp16 or bf16; the file takes and returns the same.
        onnx: opset, exporter, constant_folding, simplify, dynamic_batch, keep_fp32, external_data.

    Raises:
        UserError: an opset or a module that the exporter cannot export; a file that is not what was asked for;
            a graph that the precision cannot hold; whatever the loader raises.
    """
    component, settings, precision = job.params["component"], job.params["onnx"], job.params["precision"]["name"]
    if precision not in PRECISIONS:
        raise UserError(
            "ONNX files cannot have this precision",
            where="precision",
            value=precision,
            remedy=f"Use one of {', '.join(PRECISIONS)}",
        )
    dynamic = dynamic_axes(component, dynamic_batch=settings["dynamic_batch"])
    low = LOW_PRECISIONS.get(precision)
    model, samples = _traced(job)
    facts: dict[str, Any] = {"exporter": settings["exporter"]}
    if low:
        facts |= _converted(model, low, component, settings["keep_fp32"], samples)
    about = provenance(
        component, step=job.step, precision=precision, exporter=settings["exporter"], weights=job.inputs["weights"]
    )
    declare(model, component=component, dynamic=dynamic, about=about)
    write(model, job.outputs["onnx"], external_data=settings["external_data"])
    del model
    gc.collect()
    facts |= check(
        job.outputs["onnx"], component=component, precision=precision, opset=settings["opset"], dynamic=dynamic
    )
    if low:
        require_finite(job.outputs["onnx"], samples, low)
    return facts


def _traced(job: Job) -> tuple[ir.Model, list[dict[str, torch.Tensor]]]:
    """The simplified fp32 graph, and inputs of the smallest and the usual size to try it with."""
    component, settings = job.params["component"], job.params["onnx"]
    loader = import_module(component["loader"])
    module: nn.Module = loader.load_component(component, config=job.inputs["config"], weights=job.inputs["weights"])
    module.requires_grad_(False)
    samples = _samples(component, static_sizes(module))
    model = trace(module, component=component, settings=settings)
    del module
    gc.collect()  # the exporter leaves cycles that hold the traced program
    if settings["simplify"]:
        simplify(model)
    return model, samples


def _samples(component: Mapping[str, Any], static: Mapping[str, int]) -> list[dict[str, torch.Tensor]]:
    random = torch.Generator().manual_seed(0)
    samples = []
    for number, corner in enumerate(("min", "opt")):
        sizes = {name: axis["opt" if name == "batch" else corner] for name, axis in component["axes"].items()}
        samples.append(make_trial(component, sizes | dict(static), number=number, random=random).inputs)
    return samples


def _converted(
    model: ir.Model,
    low: LowPrecision,
    component: Mapping[str, Any],
    keep: list[str],
    samples: list[dict[str, torch.Tensor]],
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
