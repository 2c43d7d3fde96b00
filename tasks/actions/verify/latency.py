"""How long one call of a plan takes at the usual sizes of each profile, and what memory a context takes."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tasks.actions.inputs.generated import make_trial
from tasks.runtimes.tensorrt_.engine import TensorRTEngine
from tasks.settings.shape_profiles import Profile

WARM_UP, CALLS = 5, 30
FULL = 1  # the trial's number that gives masks without padding


def measure_profiles(
    engine: TensorRTEngine, component: Mapping[str, Any], profiles: Sequence[Profile], *, static: Mapping[str, int]
) -> list[dict[str, Any]]:
    """For each profile: the opt sizes, latency in ms (median and 95th percentile), context memory in MiB."""
    memory = engine.context_memory()
    return [
        {
            "opt": {axis: sizes[1] for axis, sizes in profile.items()},
            "latency_ms": _latency(
                engine, component, {**{axis: sizes[1] for axis, sizes in profile.items()}, **static}
            ),
            "context_memory_mib": round(memory[index] / 2**20, 1),
        }
        for index, profile in enumerate(profiles)
    ]


def _latency(engine: TensorRTEngine, component: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, float]:
    trial = make_trial(component, sizes, number=FULL, random=torch.Generator().manual_seed(0))
    inputs = {name: tensor.to(engine.device) for name, tensor in trial.inputs.items()}
    times = [_once(engine, inputs) for _ in range(WARM_UP + CALLS)][WARM_UP:]
    return {"median": round(statistics.median(times), 3), "p95": round(sorted(times)[int(0.95 * len(times))], 3)}


def _once(engine: TensorRTEngine, inputs: Mapping[str, torch.Tensor]) -> float:
    engine.synchronize()
    started = time.perf_counter()
    engine(inputs)
    engine.synchronize()
    return (time.perf_counter() - started) * 1e3
