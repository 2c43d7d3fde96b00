"""The report of a verification, and its end: the worst numbers, or an error that names the first failure.

The report is written only if everything passed. A failure leaves `X.failed-verification.json` beside the artifact.
"""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.actions.inputs.generated import GENERATED
from tasks.actions.verify.metrics import short
from tasks.errors import UserError, listed
from tasks.job import Job
from tasks.paths import failed_report

SILENCE_DB = 0.0  # SNR of zeros in place of the original's output
NAMED_AT_MOST = 3  # weights, recordings


def concluded(job: Job, about: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the report.

    Args:
        about: engines, weights and what was left out.
        results: of `tried`, one for each case.

    Raises:
        UserError: a case failed, a weight is not the checkpoint's, or nothing shows whose artifact it is.
    """
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
    if _weights_unknown(about["weights"]) and all(map(_decides_nothing, results)):
        raise UserError(
            f"cannot be verified: silence would pass in each of {len(results)} trials",
            where=job.inputs["artifact"],
            value=f"{worst['min_snr_db']:.3g} dB, as the original itself in its format",
            remedy="Check the weights: the original itself depends on every rounding",
        )
    with contextlib.suppress(OSError):  # of an earlier failure
        kept.unlink(missing_ok=True)
    job.outputs["report"].write_text(text, encoding="utf-8")
    recorded = sum(result["inputs"] != GENERATED for result in results)
    return {
        "provider": about["provider"],
        "trials": len(results),
        "recorded": recorded,
        **worst,
        "remarks": [*remarks(results, job, left_out=about["left_out"]), *_not_found(about["weights"])],
    }


def remarks(results: list[dict[str, Any]], job: Job, *, left_out: list[str]) -> list[str]:
    """What the user should know of a verification that passed."""
    return [*_not_tried(left_out), *_not_measured(results), *_excused(results, job)]


def _weights_unknown(weights: dict[str, Any]) -> bool:
    return "not_compared" in weights or bool(weights["without_counterpart"])


def _not_found(weights: dict[str, Any]) -> Iterator[str]:
    """They may be of no use for the outputs, or folded into others in a way that is not recognized."""
    if names := weights.get("without_counterpart"):
        yield f"not found among the artifact's weights: {listed(names, NAMED_AT_MOST)}"


def _not_tried(left_out: list[str]) -> Iterator[str]:
    if left_out:
        yield f"not tried: {listed(left_out, NAMED_AT_MOST, separator='; ')}"


def _not_measured(results: list[dict[str, Any]]) -> Iterator[str]:
    """Then only the limits of the settings hold."""
    notes = {result["floors"]["not_measured"] for result in results if "not_measured" in result["floors"]}
    if notes:
        yield f"what the format itself costs could not be measured: {next(iter(notes)) or 'it overflows'}"


def _excused(results: list[dict[str, Any]], job: Job) -> Iterator[str]:
    """An artifact can be no better than its format, but what that is worth is for the user to decide."""
    excused = [floor for result in results for floor in _excusing(result)]
    if excused:
        precision, limit = job.params["precision"]["name"], job.params["verify"]["min_snr_db"]
        cost = min(float(floor["cost_db"]) for floor in excused)
        yield (
            f"as good as {precision} can be, which is {cost:.3g} dB here (usual: at least {limit:g}); "
            "verify.accept_format=false makes it an error"
        )
    if any(map(_is_silence, excused)):
        yield "some outputs decide nothing, for silence would pass as well"


def _excusing(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The floors of the outputs that pass because of them."""
    return [result["floors"][name] for name in result["excused"]]


def _is_silence(floor: dict[str, Any]) -> bool:
    return float(floor["snr_db"]) <= SILENCE_DB


def _decides_nothing(result: dict[str, Any]) -> bool:
    return any(map(_is_silence, _excusing(result)))


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
    repair = _repair(failed, job) if not weights else "Export it again"
    return UserError(
        " and ".join(what),
        where=job.inputs["artifact"],
        value="; ".join(value),
        remedy=f"{written}. {repair}, or change the limits under verify if they are too strict",
    )


def _repair(failed: list[dict[str, Any]], job: Job) -> str:
    precision, limit = job.params["precision"]["name"], job.params["verify"]["min_snr_db"]
    if precision == "fp32":
        return "Export it again, or with the other exporter"
    costs = [floor["cost_db"] for result in failed for floor in result["floors"].values() if isinstance(floor, dict)]
    if any(float(cost) < limit for cost in costs):
        lost = f"The original itself has {min(map(float, costs)):.3g} dB in {precision}"
        return f"{lost}: use precision=fp32, or keep more operators in fp32 (onnx.keep_fp32)"
    return "Keep more operators in fp32 (onnx.keep_fp32)"


def _first_failure(result: dict[str, Any]) -> str:
    output, lines = next(iter(result["failures"].items()))
    worst = result["outputs"][output]["worst"]
    source = [] if result["inputs"] == GENERATED else [result["inputs"]]
    which = ", ".join([*source, *(f"{name}={size}" for name, size in result["sizes"].items())])
    return (
        f"trial {result['trial']} ({which}): {output} {'; '.join(lines)}; "
        f"worst element {worst['index']}: {float(worst['value']):.6g} instead of {float(worst['reference']):.6g}"
    )
