"""Times one call of either side of a trial."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

REPEATS, CHEAP_SECONDS = 3, 0.05  # a latency is a median where repeating costs little

Call = Callable[[], tuple[Tensor, ...]]


def timed(call: Call) -> tuple[tuple[Tensor, ...], float]:
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
