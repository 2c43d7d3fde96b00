"""Steps that run at once: each starts when its memory fits beside that of the others, with its share of the cores."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from tasks import progress
from tasks.freshness.receipt import Receipt
from tasks.job import available_cores
from tasks.machine.memory import available_memory
from tasks.pipeline.graph import needed_by
from tasks.pipeline.step import Step
from tasks.workflow.run_options import run_options
from tasks.workflow.step_status import StepStatus

USUAL_BYTES = 2 * 2**30  # of a step of a kind that was never run here


class SideBySide:
    """The steps of one run that are in progress.

    Args:
        statuses: all steps of the workflow.
        limit: bytes that they may take together; what is available when none of them runs is another limit.
    """

    def __init__(
        self,
        statuses: Sequence[StepStatus] = (),
        limit: float = float("inf"),
        available: Callable[[], int] = available_memory,
    ) -> None:
        self._statuses, self._limit, self._available = statuses, limit, available
        self._changed = threading.Condition()
        self._running: dict[str, int] = {}
        self._room = limit

    @contextlib.contextmanager
    def admitted(self, step: Step) -> Iterator[None]:
        """Wait until the memory of a step fits beside that of the steps that run; alone, each may run."""
        need = self._need(step)
        with self._changed:
            if self._running and not self._fits(need):
                progress.report(self._why_it_waits(step, need))
                self._changed.wait_for(lambda: not self._running or self._fits(need))
            if not self._running:
                self._room = min(self._limit, self._available())
            self._running[step.task] = need
        try:
            yield
        finally:
            with self._changed:
                del self._running[step.task]
                self._changed.notify_all()

    def threads(self, step: Step) -> int:
        """Of an admitted step: all cores where nothing can start before it ends, else its share of them."""
        at_once: int = run_options().get("num_process", 0)
        if (
            at_once > 1
            and len(self._running) == 1
            and not any(self._can_start(other, step) for other in self._statuses)
        ):
            at_once = 1
        return max(1, available_cores() // max(1, at_once))

    def _fits(self, need: int) -> bool:
        return need + sum(self._running.values()) <= self._room

    def _why_it_waits(self, step: Step, need: int) -> str:
        others = sum(self._running.values())
        return (
            f"{step.task} waits: it takes about {need / 1e9:.1f} GB, what runs {others / 1e9:.1f} GB, "
            f"and there are {self._room / 1e9:.1f} GB"
        )

    def _need(self, step: Step) -> int:
        """The step's peak memory when it last ran, or the largest of its kind."""
        kind = [step, *(status.step for status in self._statuses if status.step.stage == step.stage)]
        peaks = [_peak(one) for one in kind]
        return peaks[0] or max(peaks) or USUAL_BYTES

    def _can_start(self, status: StepStatus, beside: Step) -> bool:
        """Whether a step may yet be started, all that it needs being there, while another runs."""
        step = status.step
        if step.task == beside.task or step.skip or _has_ended(status):
            return False
        needed = self._needed[step.task]
        return not any(
            other.step.task in needed and not other.step.skip and not _has_ended(other) for other in self._statuses
        )

    @cached_property
    def _needed(self) -> dict[str, set[str]]:
        return needed_by([status.step for status in self._statuses])


def _has_ended(status: StepStatus) -> bool:
    """Whether a step was done, has failed, or need not be done."""
    fresh = status.decision is not None and status.decision.fresh and not run_options().get("always", False)
    return bool(status.outcome or status.problem or fresh)


def _peak(step: Step) -> int:
    receipt = Receipt.read(step.receipt)
    peak = receipt.execution.get("peak_memory") if receipt else 0
    return peak if isinstance(peak, int) else 0
