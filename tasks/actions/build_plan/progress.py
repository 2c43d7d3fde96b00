"""Shows the progress of a TensorRT build: one tqdm bar per phase on a terminal, a plain line now and then in a log."""

import threading
import time
from collections.abc import Callable
from typing import Any

from tasks.progress import LOG_EVERY_SECONDS, output, report


def progress_monitor(trt: Any, *, warnings: list[str]) -> Any:
    """A monitor for `IBuilderConfig.progress_monitor`; it must live as long as the build.

    TensorRT calls it from threads of its own, and an exception would end the process in its C++ code: when drawing
    fails, nothing more is drawn and the reason is added to `warnings`.
    """
    display: _Bars | _Lines | None = _Bars() if output().isatty() else _Lines()
    lock = threading.Lock()

    def draw(update: Callable[[_Bars | _Lines], None]) -> None:
        nonlocal display
        with lock:
            try:
                if display:
                    update(display)
            except Exception as error:
                display = None
                warnings.append(f"progress is no longer shown: {error}")

    class ProgressMonitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            draw(lambda display: display.start(phase_name, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            draw(lambda display: display.advance(phase_name, step + 1))
            return True  # False would cancel the build

        def phase_finish(self, phase_name: str) -> None:
            draw(lambda display: display.finish(phase_name))

    return ProgressMonitor()


class _Bars:
    """tqdm puts the bar of a nested phase below that of its parent, which was started first."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def start(self, phase: str, steps: int) -> None:
        from tqdm import tqdm

        self._bars[phase] = tqdm(total=steps, desc=f"        {phase}", leave=False, dynamic_ncols=True, file=output())

    def advance(self, phase: str, done: int) -> None:
        if bar := self._bars.get(phase):
            bar.update(done - bar.n)

    def finish(self, phase: str) -> None:
        if bar := self._bars.pop(phase, None):  # a phase may end before its last step
            bar.close()


class _Lines:
    def __init__(self) -> None:
        self._steps: dict[str, int] = {}
        self._last = time.monotonic()

    def start(self, phase: str, steps: int) -> None:
        self._steps[phase] = steps

    def advance(self, phase: str, done: int) -> None:
        if time.monotonic() - self._last >= LOG_EVERY_SECONDS:
            self._last = time.monotonic()
            report(f"TensorRT: {phase} {done}/{self._steps.get(phase, '?')}")

    def finish(self, phase: str) -> None:
        self._steps.pop(phase, None)
