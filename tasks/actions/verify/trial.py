"""One trial of a verification: the artifact on inputs whose outputs are known, the errors and their limits."""

from collections.abc import Iterable, Mapping, Sequence
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

NEAR_DB = 20.0  # damage that is larger is no matter of luck
RUNS_IN_DOUBT = 16


def tried(
    expected: Expected,
    artifact: Runtime,
    *,
    component: ComponentSpec,
    dtype: torch.dtype,
    limits: Mapping[str, Any],
    in_doubt: bool = True,
) -> dict[str, Any]:
    """Run the artifact on one case.

    Args:
        dtype: of the artifact's floats.
        limits: the settings under `verify`.
        in_doubt: whether an artifact that is a little beyond its limits is given the benefit of more runs of the
            original.

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
    results, floors = _judged(outputs, expected, dtype, limits, in_doubt=in_doubt)
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
    outputs: Outputs, expected: Expected, dtype: torch.dtype, limits: Mapping[str, Any], *, in_doubt: bool
) -> tuple[dict[str, Metrics], dict[str, Floor | None]]:
    """The errors of each output, and the limits that follow from its format."""
    originals = expected.outputs()
    _require_same_shapes(outputs, originals)
    floors = {name: _floor(cost, dtype, limits) for name, cost in expected.cost.items()}
    results = _compared(outputs, originals, floors, limits)
    if in_doubt:
        for doubted, seeds in ((_is_beyond, range(1)), (_is_near, range(1, RUNS_IN_DOUBT))):
            names = [name for name, floor in floors.items() if floor and doubted(results[name], floor)]
            if names:
                floors |= _floors_in_doubt(names, floors, expected, dtype, limits, seeds=seeds)
                results = _compared(outputs, originals, floors, limits)
    return results, floors


def _floor(cost: Metrics, dtype: torch.dtype, limits: Mapping[str, Any], *, by_chance: bool = True) -> Floor | None:
    """None where the format itself overflows: then the limits have to do."""
    if not cost.finite:
        return None
    noise, excuses = limits["max_noise"], limits["accept_format"]
    return Floor.of(cost, dtype, max_noise=noise, excuses=excuses, by_chance=by_chance)


def _is_beyond(result: Metrics, floor: Floor) -> bool:
    return result.finite and result.snr_db < floor.snr_db


def _is_near(result: Metrics, floor: Floor) -> bool:
    return _is_beyond(result, floor) and floor.snr_db - result.snr_db < NEAR_DB


def _floors_in_doubt(
    names: Sequence[str],
    floors: Mapping[str, Floor | None],
    expected: Expected,
    dtype: torch.dtype,
    limits: Mapping[str, Any],
    *,
    seeds: Iterable[int],
) -> dict[str, Floor]:
    """A single run may have had good luck where a rounding decides what an attention attends to; and where padding is
    added up, PyTorch's order of summation has it by far: what that costs, one run shows."""
    costs = [expected.cost_again(seed) for seed in seeds]
    found: dict[str, Floor] = {}
    for name in names:
        worst = min((cost[name] for cost in costs), key=lambda cost: cost.snr_db)
        again, before = _floor(worst, dtype, limits, by_chance=False), floors[name]
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
