"""Verifies an artifact: runs it beside the original module in fp32 on the same weights and seeded, realistic inputs.

The report is written only if every case passed. A failure leaves `X.failed-verification.json` beside the artifact.
"""

import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tasks.actions.inputs.generated import (
    GENERATED,
    InputCase,
    Padding,
    generated_cases,
    make_case,
    static_sizes,
    with_floats,
)
from tasks.actions.inputs.recorded import recorded_cases
from tasks.actions.original import load_original
from tasks.actions.verify.arithmetic import Outputs, outputs_and_cost
from tasks.actions.verify.chunked import MethodRuntime, chunked_outputs, whole_output
from tasks.actions.verify.metrics import Floor, metrics, short
from tasks.actions.verify.weights import Reads, compare_weights
from tasks.errors import UserError, reason
from tasks.job import Job
from tasks.objects import load_object
from tasks.paths import failed_report
from tasks.progress import progress
from tasks.runtimes.base import Runtime, Shapes, torch_dtype
from tasks.runtimes.eager import PyTorchModule
from tasks.settings.component import ComponentSpec, Kind
from tasks.settings.number_formats import BY_NAME

NAMED_AT_MOST = 3  # weights
REPEATS, CHEAP_SECONDS = 5, 0.2  # a latency is a median where repeating costs little
THREADS = 1  # of the artifact's engine, as in the original checks

Call = Callable[[], tuple[Tensor, ...]]


def run(job: Job) -> dict[str, Any]:
    """Compare `artifact` with the module made from `config` and `weights`; writes `report`.

    Inputs named `recorded...` are files of recorded inputs, tried after the generated ones.

    Params:
        component: a `ComponentSpec`; with `chunked`, that method is run as well.
        precision: `name`; the floats of a 16-bit artifact's inputs are rounded first, for the reference as well.
        verify: trials, seed, max_frames, device and the limits rtol, atol, max_outside, max_peak_error, min_snr_db,
            min_cosine.
        runtime: ``module:function`` that opens the artifact.

    Raises:
        UserError: the artifact cannot be run where it was asked to, there are no inputs to run it on, or a case
            failed: which, with the worst element.
    """
    component, verify = ComponentSpec.from_params(job.params["component"]), job.params["verify"]
    dtype, device = torch_dtype(BY_NAME[job.params["precision"]["name"]]), verify["device"]
    module: nn.Module = load_original(job, component)
    reference = PyTorchModule(module, options=component.options, device=device)
    artifact: Runtime = load_object(job.params["runtime"])(job.inputs["artifact"], device=device, threads=THREADS)
    _require_dynamic(artifact, component, job)
    weights = _compared_weights(module, reference, artifact, component, job)
    cases, left_out = _cases(job, component, static_sizes(module), artifact.shapes)
    results = [
        _result(case, artifact, reference, component=component, dtype=dtype, limits=verify)
        for case in progress(cases, label="trials")
    ]
    about = {"provider": artifact.provider, "reference": reference.provider, "weights": weights, "left_out": left_out}
    return _concluded(job, about, results)


def _compared_weights(
    module: nn.Module, reference: PyTorchModule, artifact: Runtime, component: ComponentSpec, job: Job
) -> dict[str, Any]:
    stored_weights = getattr(artifact, "stored_weights", None)
    if stored_weights is None:
        return {"not_compared": f"{artifact.provider} does not list them", "problems": []}
    sizes = component.sizes_at("min") | static_sizes(module)
    random = torch.Generator().manual_seed(job.params["verify"]["seed"])
    with Reads() as reads:
        reference(make_case(component, sizes, padding=Padding.none, random=random).inputs)
    return compare_weights(module, reads.addresses, stored_weights())


def _require_dynamic(artifact: Runtime, component: ComponentSpec, job: Job) -> None:
    """An artifact that fixes an axis would only be tried at that size, and fail at every other in deployment."""
    fixed = component.fixed_sizes(artifact.shapes)
    axes = {name: axis for name, axis in component.axes.items() if axis.dynamic and axis.min < axis.max}
    if wrong := [f"{name}={size}" for name, size in fixed.items() if name in axes]:
        raise UserError(
            "the artifact fixes an axis that is declared dynamic",
            where=job.inputs["artifact"],
            value=", ".join(wrong),
            remedy="Export it again, or set model.axes.AXIS.dynamic=false",
        )


def _cases(
    job: Job, component: ComponentSpec, static: Mapping[str, int], fixed: Shapes
) -> tuple[list[InputCase], list[str]]:
    """The generated cases and the recorded ones, and which of these do not fit the artifact."""
    verify = job.params["verify"]
    generated = list(
        generated_cases(
            component,
            count=verify["trials"],
            seed=verify["seed"],
            max_size=verify["max_frames"],
            static=static,
            fixed=fixed,
        )
    )
    recorded, left_out = recorded_cases(job.inputs, component, fixed=fixed, first=len(generated))
    if not generated and not recorded:
        raise UserError(
            f"there are no inputs to verify {component.name} on",
            where=job.inputs["artifact"],
            value="; ".join(left_out) or "no recording",
            remedy="Record inputs that fit the artifact",
        )
    return [*generated, *recorded], left_out


def _result(
    case: InputCase,
    artifact: Runtime,
    reference: PyTorchModule,
    *,
    component: ComponentSpec,
    dtype: torch.dtype,
    limits: Mapping[str, Any],
) -> dict[str, Any]:
    rounded = {name: _rounded(value, artifact.dtypes.get(name, dtype)) for name, value in case.inputs.items()}
    exact = replace(case, inputs=with_floats(rounded, torch.float32))
    found, artifact_ms = _timed(lambda: artifact(rounded))
    _, reference_ms = _timed(lambda: reference(exact.inputs))
    outputs = dict(zip(component.outputs, found, strict=True)) | _chunked(exact, artifact, component, dtype)
    expected, own, note = _expected_and_cost(exact, reference, component=component, dtype=dtype)
    _require_same_shapes(outputs, expected)
    results, floors = {}, {}
    for name, output in outputs.items():
        floor = _floor(own[name], expected[name], dtype, limits) if own else None
        allowance = floor.max_abs if floor and floor.excuses else 0.0
        results[name] = metrics(output, expected[name], rtol=limits["rtol"], atol=limits["atol"] + allowance)
        floors[name] = floor
    failures = {name: result.failures(limits, floors[name]) for name, result in results.items()}
    masks = {name: case.inputs[name].float().mean().item() for name in component.of_kind(Kind.mask)}
    return {
        "trial": case.number,
        "inputs": case.source,
        "sizes": case.sizes,
        "shapes": {name: list(value.shape) for name, value in case.inputs.items()},
        "valid": {name: round(share, 4) for name, share in masks.items()},
        "outputs": {name: result.to_plain() for name, result in results.items()},
        "floors": {name: short(asdict(floor)) for name, floor in floors.items() if floor} or {"not_measured": note},
        "failures": {name: lines for name, lines in failures.items() if lines},
        "milliseconds": {"artifact": artifact_ms, "reference": reference_ms},
    }


def _expected_and_cost(
    case: InputCase, reference: PyTorchModule, *, component: ComponentSpec, dtype: torch.dtype
) -> tuple[Outputs, Outputs | None, str]:
    """What the artifact is compared with, and what its format makes of the same inputs, or why that is not known."""

    def forward(floats: torch.dtype) -> Outputs:
        found = reference(with_floats(case.inputs, floats))
        return dict(zip(component.outputs, found, strict=True)) | _chunked(case, reference, component, floats)

    def whole(floats: torch.dtype) -> Outputs:
        if not (chunked := component.chunked):
            return forward(floats)
        output = whole_output(case, reference, component=component, chunked=chunked, dtype=floats)
        return forward(floats) | {chunked.method: output}

    try:
        return *outputs_and_cost(whole, forward, dtype), ""
    except RuntimeError as error:  # a module may insist on its own arithmetic
        return whole(torch.float32), None, reason(error)


def _chunked(case: InputCase, runtime: Runtime, component: ComponentSpec, dtype: torch.dtype) -> Outputs:
    if component.chunked is None:
        return {}
    side = cast(MethodRuntime, runtime)
    return chunked_outputs(case, side, component=component, chunked=component.chunked, dtype=dtype)


def _floor(own: Tensor, expected: Tensor, dtype: torch.dtype, limits: Mapping[str, Any]) -> Floor | None:
    """None where the format itself overflows: then the limits have to do."""
    cost = metrics(own, expected, rtol=0, atol=0)
    return Floor.of(cost, dtype, elements=own.numel(), max_noise=limits["max_noise"]) if cost.finite else None


def _rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def _require_same_shapes(found: Outputs, expected: Outputs) -> None:
    for name, output in found.items():
        if output.shape != expected[name].shape:
            raise UserError(
                "the artifact's outputs have other shapes than the module's",
                where=name,
                value=f"{list(output.shape)} instead of {list(expected[name].shape)}",
                remedy="Export it again; the axes it was exported with may not cover these sizes",
            )


def _timed(call: Call) -> tuple[tuple[Tensor, ...], float]:
    """The call's outputs and its time in ms: the median of a few if it is quick, which also warms it up."""
    outputs, first = _once(call)
    times = [first] if first > CHEAP_SECONDS else [_once(call)[1] for _ in range(REPEATS)]
    return outputs, round(statistics.median(times) * 1e3, 3)


def _once(call: Call) -> tuple[tuple[Tensor, ...], float]:
    started = time.perf_counter()
    outputs = call()
    if any(output.is_cuda for output in outputs):
        torch.cuda.synchronize()
    return outputs, time.perf_counter() - started


def _concluded(job: Job, about: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    failed = [result for result in results if result["failures"]]
    worst = short(_worst_numbers(results))
    report = {
        "step": job.step,
        "artifact": job.inputs["artifact"].name,
        "passed": not failed and not about["weights"]["problems"],
        **about,
        "limits": job.params["verify"],
        "worst": worst,
        "trials": results,
    }
    text = json.dumps(report, indent=1) + "\n"
    kept = failed_report(job.inputs["artifact"])
    if not report["passed"]:
        raise _failure(failed, about["weights"]["problems"], count=len(results), job=job, written=_written(kept, text))
    with contextlib.suppress(OSError):  # of an earlier failure
        kept.unlink(missing_ok=True)
    job.outputs["report"].write_text(text, encoding="utf-8")
    recorded = sum(result["inputs"] != GENERATED for result in results)
    return {"provider": about["provider"], "trials": len(results), "recorded": recorded, **worst}


def _worst_numbers(results: list[dict[str, Any]]) -> dict[str, float]:
    outputs = [output for result in results for output in result["outputs"].values()]

    def values(key: str) -> list[float]:
        return [float(output[key]) for output in outputs]

    return {
        "max_abs": max(values("max_abs")),
        "peak_error": max(values("peak_error")),
        "outside": max(values("outside")),
        "min_snr_db": min(values("snr_db")),
        "min_cosine": min(values("cosine")),
        "margin_db": min((m for result in results for m in _margins(result)), default=math.inf),
    }


def _margins(result: dict[str, Any]) -> list[float]:
    """How far the SNR of each output is above its limit, where what the format costs is known."""
    outputs, floors = result["outputs"], result["floors"]
    return [
        float(numbers["snr_db"]) - float(floors[name]["snr_db"]) for name, numbers in outputs.items() if name in floors
    ]


def _written(path: Path, text: str) -> str:
    """Write the report of a failure beside the artifact: only what passes becomes the step's output."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        return f"The full report could not be written: {error.strerror}"
    return f"All trials are in {path}"


def _failure(failed: list[dict[str, Any]], weights: list[str], *, count: int, job: Job, written: str) -> UserError:
    what, value = [], []
    if weights:
        what.append(f"{len(weights)} of its weights are not those of the checkpoint")
        value += weights[:NAMED_AT_MOST]
    if failed:
        what.append(f"differs from the original module in {len(failed)} of {count} trials")
        value.append(_first_failure(failed[0]))
    low = job.params["precision"]["name"] != "fp32" and not weights
    repair = "Keep more operators in fp32 (onnx.keep_fp32)" if low else "Export it again, or with the other exporter"
    return UserError(
        " and ".join(what),
        where=job.inputs["artifact"],
        value="; ".join(value),
        remedy=f"{written}. {repair}, or change the limits under verify if they are too strict",
    )


def _first_failure(result: dict[str, Any]) -> str:
    output, lines = next(iter(result["failures"].items()))
    worst = result["outputs"][output]["worst"]
    source = [] if result["inputs"] == GENERATED else [result["inputs"]]
    which = ", ".join([*source, *(f"{name}={size}" for name, size in result["sizes"].items())])
    return (
        f"trial {result['trial']} ({which}): {output} {'; '.join(lines)}; "
        f"worst element {worst['index']}: {float(worst['value']):.6g} instead of {float(worst['reference']):.6g}"
    )
