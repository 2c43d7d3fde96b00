"""Shows how far a build is and stops it on Ctrl-C, through TensorRT's progress monitor."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any, Protocol, TypeVar

from tasks.progress import LOG_EVERY_SECONDS, say, stream

T = TypeVar("T")

LOOK_FOR_SIGNALS_SECONDS = 0.2


class Display(Protocol):
    """Draws phases; called from one thread at a time."""

    def start(self, phase: str, *, depth: int, steps: int) -> None: ...

    def advance(self, phase: str, *, done: int) -> None: ...

    def finish(self, phase: str) -> None: ...


class BuildProgress:
    """How far a build is and whether it shall go on; TensorRT reports from threads of its own.

    An exception of the display must not reach TensorRT, which would end the process: it cancels the build and is kept
    in `failure`.
    """

    def __init__(self, display: Display | None = None) -> None:
        self.failure: Exception | None = None
        self._display = display or (Bars() if stream().isatty() else Lines())
        self._cancelled, self._lock = threading.Event(), threading.Lock()
        self._depths: dict[str, int] = {}

    def cancel(self) -> None:
        self._cancelled.set()

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        depth = self._depths.get(parent or "", -1) + 1
        self._depths[phase] = depth
        self._show(lambda: self._display.start(phase, depth=depth, steps=steps))

    def step(self, phase: str, step: int) -> bool:
        """Whether to go on."""
        self._show(lambda: self._display.advance(phase, done=step + 1))
        return not self._cancelled.is_set()

    def finish(self, phase: str) -> None:
        self._show(lambda: self._display.finish(phase))

    def _show(self, draw: Callable[[], None]) -> None:
        try:
            with self._lock:
                draw()
        except Exception as problem:
            self.failure = problem
            self.cancel()


def progress_monitor(trt: Any, progress: BuildProgress) -> Any:
    """`progress` as TensorRT wants it, for `IBuilderConfig.progress_monitor`; it must live as long as the build."""

    class ProgressMonitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return ProgressMonitor()


def run_cancellable(build: Callable[[], T], *, progress: BuildProgress) -> T:
    """Call `build` in a thread, so that Ctrl-C reaches this one: it cancels the build, awaits its end and goes on up.

    In the thread that builds, Python would not look at signals before the build is over, or would raise inside a
    callback of TensorRT.
    """
    outcome: Future[T] = Future()
    ready = threading.Event()

    def work() -> None:
        ready.wait()
        try:
            outcome.set_result(build())
        except BaseException as problem:
            outcome.set_exception(problem)

    thread = threading.Thread(target=work, name="tensorrt-build", daemon=True)
    try:
        thread.start()
        ready.set()
        # A wait without an end would sleep through a signal that came just before it, or to another thread.
        while not outcome.done():
            wait_for([outcome], timeout=LOOK_FOR_SIGNALS_SECONDS)
        result = outcome.result()
    except KeyboardInterrupt:
        progress.cancel()
        if ready.is_set():
            thread.join()
        raise
    if progress.failure:
        raise progress.failure
    return result


class Bars:
    """One tqdm bar per phase, nested under its parent; for a terminal."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def start(self, phase: str, *, depth: int, steps: int) -> None:
        from tqdm import tqdm

        self._bars[phase] = tqdm(
            total=steps, desc=f"        {phase}", position=depth, leave=False, dynamic_ncols=True, file=stream()
        )

    def advance(self, phase: str, *, done: int) -> None:
        if bar := self._bars.get(phase):
            bar.update(done - bar.n)

    def finish(self, phase: str) -> None:
        if bar := self._bars.pop(phase, None):  # a phase may end before its last step
            bar.close()


class Lines:
    """A line now and then; for a log."""

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}
        self._last = time.monotonic()

    def start(self, phase: str, *, depth: int, steps: int) -> None:
        self._steps[phase] = steps

    def advance(self, phase: str, *, done: int) -> None:
        if time.monotonic() - self._last >= LOG_EVERY_SECONDS:
            self._last = time.monotonic()
            say(f"TensorRT: {phase} {done}/{self._steps.get(phase, '?')}")

    def finish(self, phase: str) -> None:
        self._steps.pop(phase, None)
