"""Verifies an artifact: runs it beside the original module in fp32 on the same weights and seeded, realistic inputs.

The report is written only if every case passed. A failure leaves `X.failed-verification.json` beside the artifact.
"""

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Mapping
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
)
from tasks.actions.inputs.recorded import recorded_cases
from tasks.actions.original import load_original
from tasks.actions.verify.chunked import MethodRuntime, Reference, chunked_outputs
from tasks.actions.verify.metrics import metrics, short
from tasks.errors import UserError, reason
from tasks.job import Job
from tasks.objects import load_object
from tasks.paths import failed_report
from tasks.progress import progress
from tasks.runtimes.base import Runtime, Shapes, torch_dtype
from tasks.runtimes.eager import PyTorchModule
from tasks.settings.component import ComponentSpec, Kind
from tasks.settings.number_formats import BY_NAME

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
    noise = _noise_floor(module, component, verify["seed"])
    reference = PyTorchModule(module, options=component.options, device=device)
    artifact: Runtime = load_object(job.params["runtime"])(job.inputs["artifact"], device=device, threads=THREADS)
    cases, left_out = _cases(job, component, static_sizes(module), artifact.shapes)
    results = [
        _result(case, artifact, reference, component=component, dtype=dtype, limits=verify)
        for case in progress(cases, label="trials")
    ]
    about = {"provider": artifact.provider, "reference": reference.provider, "left_out": left_out, **noise}
    return _concluded(job, about, results)


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
    reference: Runtime,
    *,
    component: ComponentSpec,
    dtype: torch.dtype,
    limits: Mapping[str, Any],
) -> dict[str, Any]:
    rounded = {name: _rounded(value, artifact.dtypes.get(name, dtype)) for name, value in case.inputs.items()}
    exact = {name: value.float() if value.is_floating_point() else value for name, value in rounded.items()}
    expected, reference_ms = _timed(lambda: reference(exact))
    found, artifact_ms = _timed(lambda: artifact(rounded))
    pairs = dict(zip(component.outputs, zip(found, expected, strict=True), strict=True))
    if component.chunked:
        sides = cast(tuple[MethodRuntime, Reference], (artifact, reference))
        pairs |= chunked_outputs(case, *sides, component=component, chunked=component.chunked, dtype=dtype)
    _require_same_shapes(pairs)
    outputs = {name: metrics(*pair, rtol=limits["rtol"], atol=limits["atol"]) for name, pair in pairs.items()}
    failures = {name: result.failures(limits) for name, result in outputs.items()}
    masks = {name: case.inputs[name].float().mean().item() for name in component.of_kind(Kind.mask)}
    return {
        "trial": case.number,
        "inputs": case.source,
        "sizes": case.sizes,
        "shapes": {name: list(value.shape) for name, value in case.inputs.items()},
        "valid": {name: round(share, 4) for name, share in masks.items()},
        "outputs": {name: result.to_plain() for name, result in outputs.items()},
        "failures": {name: lines for name, lines in failures.items() if lines},
        "milliseconds": {"artifact": artifact_ms, "reference": reference_ms},
    }


def _rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def _require_same_shapes(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    for name, (found, expected) in pairs.items():
        if found.shape != expected.shape:
            raise UserError(
                "the artifact's outputs have other shapes than the module's",
                where=name,
                value=f"{list(found.shape)} instead of {list(expected.shape)}",
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


def _noise_floor(module: nn.Module, component: ComponentSpec, seed: int) -> dict[str, Any]:
    """How far the fp32 reference itself is from float64 on one small case: nothing can be verified below that."""
    sizes = component.sizes_at("min") | static_sizes(module)
    random = torch.Generator().manual_seed(seed)
    inputs = make_case(component, sizes, padding=Padding.random, random=random).inputs
    single = PyTorchModule(module, options=component.options, device="cpu")(inputs)
    wide = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    try:
        double = PyTorchModule(module.double(), options=component.options, device="cpu")(wide)
    except RuntimeError as error:  # a module may insist on fp32 inside
        return {"noise_floor": {"not_measured": reason(error)}}
    finally:
        module.float()  # exact: every value was fp32 before
    floors = [metrics(a, b, rtol=0, atol=0).to_plain() for a, b in zip(single, double, strict=True)]
    named = zip(component.outputs, floors, strict=True)
    return {"noise_floor": {name: {key: floor[key] for key in ("max_abs", "snr_db")} for name, floor in named}}


def _concluded(job: Job, about: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    failed = [result for result in results if result["failures"]]
    worst = short(_worst_numbers(results))
    report = {
        "step": job.step,
        "artifact": job.inputs["artifact"].name,
        "passed": not failed,
        **about,
        "limits": job.params["verify"],
        "worst": worst,
        "trials": results,
    }
    text = json.dumps(report, indent=1) + "\n"
    kept = failed_report(job.inputs["artifact"])
    if failed:
        raise _failure(failed, count=len(results), artifact=job.inputs["artifact"], written=_written(kept, text))
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
    }


def _written(path: Path, text: str) -> str:
    """Write the report of a failure beside the artifact: only what passes becomes the step's output."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        return f"The full report could not be written: {error.strerror}"
    return f"All trials are in {path}"


def _failure(failed: list[dict[str, Any]], *, count: int, artifact: Path, written: str) -> UserError:
    result = failed[0]
    output, lines = next(iter(result["failures"].items()))
    worst = result["outputs"][output]["worst"]
    source = [] if result["inputs"] == GENERATED else [result["inputs"]]
    which = ", ".join([*source, *(f"{name}={size}" for name, size in result["sizes"].items())])
    return UserError(
        f"differs from the original module in {len(failed)} of {count} trials",
        where=artifact,
        value=f"trial {result['trial']} ({which}): {output} {'; '.join(lines)}; "
        f"worst element {worst['index']}: {float(worst['value']):.6g} instead of {float(worst['reference']):.6g}",
        remedy=f"{written}. Keep more operators in fp32, or change the tolerances under verify if they are too strict",
    )
