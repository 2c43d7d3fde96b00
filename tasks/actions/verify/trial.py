"""One trial of a verification: the artifact and the original on the same inputs, the errors and their limits."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, cast

import torch
from torch import Tensor

from tasks.actions.inputs.generated import InputCase, with_floats
from tasks.actions.verify.arithmetic import Outputs, outputs_and_cost
from tasks.actions.verify.chunked import MethodRuntime, chunked_outputs, whole_output
from tasks.actions.verify.metrics import Floor, metrics, short
from tasks.errors import UserError, reason
from tasks.runtimes.base import Runtime
from tasks.runtimes.eager import PyTorchModule
from tasks.settings.component import ComponentSpec, Kind

REPEATS, CHEAP_SECONDS = 5, 0.2  # a latency is a median where repeating costs little

Call = Callable[[], tuple[Tensor, ...]]


def tried(
    case: InputCase,
    artifact: Runtime,
    reference: PyTorchModule,
    *,
    component: ComponentSpec,
    dtype: torch.dtype,
    limits: Mapping[str, Any],
) -> dict[str, Any]:
    """Run both sides on one case.

    Args:
        dtype: of the artifact's floats; inputs are rounded to it first, for the original as well.
        limits: the settings under `verify`.

    Returns:
        What the report has of the case; `failures` has lines for each output that is beyond its limits.

    Raises:
        UserError: the artifact cannot be run on these sizes, or its outputs have other shapes.
    """
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
