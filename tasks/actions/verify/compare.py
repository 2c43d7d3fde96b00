"""Verifies an artifact: runs it beside the original module in fp32 on the same weights and seeded, realistic inputs.

The report is written only if every trial passed. A failure leaves `X.failed-verification.json` beside the artifact.
"""

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tasks.actions.inputs.generated import SEEDED, Trial, make_trial, static_sizes, trials
from tasks.actions.inputs.recorded import recorded_trials
from tasks.actions.verify.chunked import Reference, Streaming, streamed
from tasks.actions.verify.metrics import agreement, short
from tasks.errors import UserError
from tasks.job import Job
from tasks.paths import failed_report
from tasks.progress import progress
from tasks.runtimes.base import Runtime, Shapes, torch_dtype
from tasks.runtimes.eager import PyTorchModule
from tasks.settings.number_formats import BY_NAME

REPEATS, CHEAP_SECONDS = 5, 0.2  # a latency is a median where repeating costs little
THREADS = 1  # of the artifact's engine, as published checks ran

Call = Callable[[], tuple[Tensor, ...]]


def run(job: Job) -> dict[str, Any]:
    """Compare `artifact` with the module made from `config` and `weights`; writes `report`.

    Inputs named `recorded...` are files of recorded inputs, tried after the made-up ones.

    Params:
        component: declaration with `loader`, `inputs`, `outputs`, `axes`, `options`; with `stream`, that method is
            run as well.
        precision: `name`; the floats of an fp16 artifact's inputs are rounded first, for the reference as well.
        verify: trials, seed, max_frames, device and the limits rtol, atol, max_outside, max_peak_error, min_snr_db,
            min_cosine.
        runtime: module that opens the artifact.

    Raises:
        UserError: the artifact cannot be run where it was asked to, or a trial failed: which, with the worst element.
    """
    component, verify = job.params["component"], job.params["verify"]
    dtype, device = torch_dtype(BY_NAME[job.params["precision"]["name"]]), verify["device"]
    loader = import_module(component["loader"])
    module: nn.Module = loader.load_component(component, config=job.inputs["config"], weights=job.inputs["weights"])
    noise = _noise_floor(module, component, verify)
    reference = PyTorchModule(module, options=component["options"], device=device)
    artifact: Runtime = import_module(job.params["runtime"]).open_artifact(
        job.inputs["artifact"], device=device, threads=THREADS
    )
    tried, left_out = _trials(job, static_sizes(module), artifact.shapes)
    results = [
        _tried(trial, artifact, reference, component=component, dtype=dtype, verify=verify)
        for trial in progress(tried, label="trials")
    ]
    about = {"provider": artifact.provider, "reference": reference.provider, "left_out": left_out, **noise}
    return _concluded(job, about, results)


def _trials(job: Job, static: Mapping[str, int], fixed: Shapes) -> tuple[list[Trial], list[str]]:
    """The made-up trials and the recorded ones, and which of these do not fit the artifact."""
    component, verify = job.params["component"], job.params["verify"]
    made_up = trials(
        component,
        count=verify["trials"],
        seed=verify["seed"],
        max_size=verify["max_frames"],
        static=static,
        fixed=fixed,
    )
    recorded, left_out = recorded_trials(job.inputs, component, fixed=fixed, first=verify["trials"])
    return [*made_up, *recorded], left_out


def _tried(
    trial: Trial,
    artifact: Runtime,
    reference: Runtime,
    *,
    component: Mapping[str, Any],
    dtype: torch.dtype,
    verify: Mapping[str, Any],
) -> dict[str, Any]:
    rounded = {name: _rounded(value, artifact.dtypes.get(name, dtype)) for name, value in trial.inputs.items()}
    exact = {name: value.float() if value.is_floating_point() else value for name, value in rounded.items()}
    expected, reference_ms = _timed(lambda: reference(exact))
    found, artifact_ms = _timed(lambda: artifact(rounded))
    pairs = dict(zip(component["outputs"], zip(found, expected, strict=True), strict=True))
    if component.get("stream"):
        sides = cast(tuple[Streaming, Reference], (artifact, reference))
        pairs |= streamed(trial, *sides, component=component, dtype=dtype)
    _require_same_shapes(pairs)
    outputs = {name: agreement(*pair, rtol=verify["rtol"], atol=verify["atol"]) for name, pair in pairs.items()}
    failures = {name: result.failures(verify) for name, result in outputs.items()}
    return {
        "trial": trial.number,
        "inputs": trial.source,
        "sizes": trial.sizes,
        "shapes": {name: list(value.shape) for name, value in trial.inputs.items()},
        "valid": {name: round(value.float().mean().item(), 4) for name, value in _masks(trial, component)},
        "outputs": {name: result.to_plain() for name, result in outputs.items()},
        "failures": {name: reasons for name, reasons in failures.items() if reasons},
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


def _masks(trial: Trial, component: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    return ((name, trial.inputs[name]) for name, x in component["inputs"].items() if x["values"] == "mask")


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


def _noise_floor(module: nn.Module, component: Mapping[str, Any], verify: Mapping[str, Any]) -> dict[str, Any]:
    """How far the fp32 reference itself is from float64 on one small trial: nothing can be verified below that."""
    random = torch.Generator().manual_seed(verify["seed"])
    sizes = {name: axis["opt" if name == "batch" else "min"] for name, axis in component["axes"].items()}
    inputs = make_trial(component, sizes | static_sizes(module), number=0, random=random).inputs
    single = PyTorchModule(module, options=component["options"], device="cpu")(inputs)
    wide = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    try:
        double = PyTorchModule(module.double(), options=component["options"], device="cpu")(wide)
    except RuntimeError as error:  # a module may insist on fp32 inside
        return {"noise_floor": {"not_measured": str(error).splitlines()[0]}}
    finally:
        module.float()  # exact: every value was fp32 before
    floors = [agreement(a, b, rtol=0, atol=0) for a, b in zip(single, double, strict=True)]
    named = zip(component["outputs"], floors, strict=True)
    return {"noise_floor": {name: {k: f.to_plain()[k] for k in ("max_abs", "snr_db")} for name, f in named}}


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
    shelf = failed_report(job.inputs["artifact"])
    if failed:
        raise _failure(failed, count=len(results), artifact=job.inputs["artifact"], kept=_kept(shelf, text))
    with contextlib.suppress(OSError):  # of an earlier failure
        shelf.unlink(missing_ok=True)
    job.outputs["report"].write_text(text, encoding="utf-8")
    recorded = sum(result["inputs"] != SEEDED for result in results)
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


def _kept(shelf: Path, text: str) -> str:
    """Leave the report of a failure for the reader: only what passes becomes the step's output."""
    try:
        shelf.write_text(text, encoding="utf-8")
    except OSError as error:
        return f"The full report could not be written: {error.strerror}"
    return f"All trials are in {shelf}"


def _failure(failed: list[dict[str, Any]], *, count: int, artifact: Path, kept: str) -> UserError:
    trial = failed[0]
    output, reasons = next(iter(trial["failures"].items()))
    worst = trial["outputs"][output]["worst"]
    recorded = [] if trial["inputs"] == SEEDED else [trial["inputs"]]
    which = ", ".join([*recorded, *(f"{name}={size}" for name, size in trial["sizes"].items())])
    return UserError(
        f"differs from the original module in {len(failed)} of {count} trials",
        where=artifact,
        value=f"trial {trial['trial']} ({which}): {output} {'; '.join(reasons)}; "
        f"worst element {worst['index']}: {float(worst['value']):.6g} instead of {float(worst['reference']):.6g}",
        remedy=f"{kept}. Keep more operators in fp32, or change the tolerances under verify if they are too strict",
    )
