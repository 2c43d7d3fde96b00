"""One trial of a verification: the artifact on inputs whose outputs are known, the errors and their limits."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from tasks.actions.verify.chunked import Outputs, chunked_outputs
from tasks.actions.verify.metrics import Floor, Metrics, metrics, short
from tasks.actions.verify.reference import Expected
from tasks.actions.verify.timing import timed
from tasks.errors import UserError
from tasks.runtimes.base import Runtime
from tasks.settings.component import ComponentSpec, Kind


def tried(
    expected: Expected,
    artifact: Runtime,
    *,
    component: ComponentSpec,
    dtype: torch.dtype,
    limits: Mapping[str, Any],
    runs: int,
) -> dict[str, Any]:
    """Run the artifact on one case.

    Args:
        dtype: of the artifact's floats.
        limits: the settings under `verify`.
        runs: of the original, at most, that an artifact beyond its limits is compared with as well.

    Returns:
        What the report has of the case; `failures` has lines for each output that is beyond its limits, `excused` the
        outputs that pass only because the format itself is beyond them.

    Raises:
        UserError: the artifact cannot be run on these sizes, or its outputs have other shapes.
    """
    case = expected.case
    found, milliseconds = timed(lambda: artifact(expected.given))
    _require_as_many(found, component)
    outputs = dict(zip(component.outputs, found, strict=True))
    outputs |= chunked_outputs(case, artifact, component=component, dtype=dtype)
    results, floors = _judged(outputs, expected, dtype, limits, runs=runs)
    failures = {name: result.failures(limits, floors.get(name)) for name, result in results.items()}
    excused = [name for name, result in results.items() if not failures[name] and result.failures(limits)]
    masks = {name: case.inputs[name].float().mean().item() for name in component.of_kind(Kind.mask)}
    known = {name: short(asdict(floor)) for name, floor in floors.items() if floor}
    return {
        "trial": case.number,
        "inputs": case.source,
        "sizes": case.sizes,
        "shapes": {name: list(value.shape) for name, value in case.inputs.items()},
        "valid": {name: round(share, 4) for name, share in masks.items()},
        "outputs": {name: result.to_plain() for name, result in results.items()},
        "floors": known or {"not_measured": expected.note},
        "excused": excused,
        "failures": {name: lines for name, lines in failures.items() if lines},
        "milliseconds": {"artifact": milliseconds, "reference": expected.milliseconds},
    }


def _judged(
    outputs: Outputs, expected: Expected, dtype: torch.dtype, limits: Mapping[str, Any], *, runs: int
) -> tuple[dict[str, Metrics], dict[str, Floor | None]]:
    """The errors of each output, and the limits that follow from its format."""
    originals = expected.outputs()
    _require_same_shapes(outputs, originals)
    floors = {name: _floor(cost, dtype, limits) for name, cost in expected.cost.items()}
    results = _compared(outputs, originals, floors, limits)
    for seed in range(runs):
        beyond = [name for name, floor in floors.items() if floor and _is_beyond(results[name], floor, limits)]
        if not beyond:
            break
        lower = _lower_floors(beyond, floors, expected.cost_again(seed), dtype, limits)
        if lower:
            floors |= lower
            results = _compared(outputs, originals, floors, limits)
    return results, floors


def _floor(cost: Metrics, dtype: torch.dtype, limits: Mapping[str, Any], *, by_chance: bool = True) -> Floor | None:
    """None where the format itself overflows: then the limits have to do."""
    if not cost.finite:
        return None
    noise, excuses = limits["max_noise"], limits["accept_format"]
    return Floor.of(cost, dtype, max_noise=noise, excuses=excuses, by_chance=by_chance)


def _is_beyond(result: Metrics, floor: Floor, limits: Mapping[str, Any]) -> bool:
    """Of NaN no run decides."""
    return result.finite and bool(result.failures(limits, floor))


def _lower_floors(
    names: Sequence[str],
    floors: Mapping[str, Floor | None],
    costs: Mapping[str, Metrics],
    dtype: torch.dtype,
    limits: Mapping[str, Any],
) -> dict[str, Floor]:
    """The limits that another run of the original lowers.

    A single run may have had good luck where a rounding decides what an attention attends to, and then it is luck by
    any number of dB; and where padding is added up, PyTorch's order of summation has it by far.
    """
    found: dict[str, Floor] = {}
    for name in names:
        again, before = _floor(costs[name], dtype, limits, by_chance=False), floors[name]
        if again and before and again.snr_db < before.snr_db:
            found[name] = again
    return found


def _compared(
    outputs: Outputs, originals: Outputs, floors: Mapping[str, Floor | None], limits: Mapping[str, Any]
) -> dict[str, Metrics]:
    results = {}
    for name, output in outputs.items():
        floor = floors.get(name)
        atol = limits["atol"] + (floor.max_abs if floor and floor.excuses else 0.0)
        results[name] = metrics(output, originals[name], rtol=limits["rtol"], atol=atol)
    return results


def _require_as_many(found: Sequence[torch.Tensor], component: ComponentSpec) -> None:
    if len(found) != len(component.outputs):
        raise UserError(
            "the artifact has another number of outputs than was declared",
            where=component.name,
            value=f"{len(found)} instead of {', '.join(component.outputs)}",
            remedy="Export it again, or correct the outputs under model.components",
        )


def _require_same_shapes(found: Outputs, expected: Outputs) -> None:
    for name, output in found.items():
        if output.shape != expected[name].shape:
            raise UserError(
                "the artifact's outputs have other shapes than the module's",
                where=name,
                value=f"{list(output.shape)} instead of {list(expected[name].shape)}",
                remedy="Export it again; the axes it was exported with may not cover these sizes",
            )
