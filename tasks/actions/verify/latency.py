"""Measures one call of a TensorRT plan at the opt sizes of each profile, and the memory of an execution context."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tasks.actions.inputs.generated import Padding, make_case
from tasks.runtimes.tensorrt_.engine import TensorRTEngine
from tasks.settings.component import ComponentSpec
from tasks.settings.shape_profiles import Profile

WARM_UP, CALLS = 5, 30


def measure_profiles(
    engine: TensorRTEngine, component: ComponentSpec, profiles: Sequence[Profile]
) -> list[dict[str, Any]]:
    """For each profile: the opt sizes, latency in ms (median and 95th percentile), context memory in MiB."""
    memory, fixed = engine.context_memory(), component.fixed_sizes(engine.shapes)
    usual = [{axis: sizes[1] for axis, sizes in profile.items()} for profile in profiles]
    return [
        {
            "opt": sizes,
            "latency_ms": _latency(engine, component, sizes | fixed),
            "context_memory_mib": round(memory[index] / 2**20, 1),
        }
        for index, sizes in enumerate(usual)
    ]


def _latency(engine: TensorRTEngine, component: ComponentSpec, sizes: Mapping[str, int]) -> dict[str, float]:
    case = make_case(component, sizes, padding=Padding.none, random=torch.Generator().manual_seed(0))
    inputs = {name: tensor.to(engine.device) for name, tensor in case.inputs.items()}
    times = [_once(engine, inputs) for _ in range(WARM_UP + CALLS)][WARM_UP:]
    return {"median": round(statistics.median(times), 3), "p95": round(sorted(times)[int(0.95 * len(times))], 3)}


def _once(engine: TensorRTEngine, inputs: Mapping[str, torch.Tensor]) -> float:
    engine.synchronize()
    started = time.perf_counter()
    engine(inputs)
    engine.synchronize()
    return (time.perf_counter() - started) * 1e3
