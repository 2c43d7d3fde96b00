"""What a run prints: one line for each step with the reason for what is done about it, and a summary."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from textwrap import indent
from typing import Any, TextIO

from doit.exceptions import BaseFail, UnmetDependency
from doit.task import Task

from tasks.child.outcome import Outcome
from tasks.errors import listed
from tasks.pipeline.step import Step
from tasks.progress import Unfailing, print_anything
from tasks.workflow.step_status import status_of

WORDS = {"build": "built", "reuse": "reused", "fresh": "fresh", "skip": "skipped", "FAIL": "failed"}

REASONS_IN_A_LINE = 3


class Reporter:
    """doit's reporter: build / reuse / fresh / skip / FAIL, the step, the reason."""

    desc = "what is built and why"

    on_end: Callable[[], None]  # called after the last step

    def __init__(self, outstream: TextIO | None, options: dict[str, Any]) -> None:
        outstream = outstream or sys.stdout  # doit has what it was before `prepare_streams`
        print_anything(outstream)  # it may be a file: doit run -o FILE
        self._out = Unfailing(outstream)  # the steps go on, with nobody who reads about them
        self._count: Counter[str] = Counter()
        self._started = time.monotonic()
        self._errors: list[str] = []

    def initialize(self, tasks: dict[str, Task], selected_tasks: list[str]) -> None:
        """Report what the selected groups leave out."""
        for name in selected_tasks:
            for step in (tasks[name].meta or {}).get("skipped", ()):
                self._skip(step)

    def execute_task(self, task: Task) -> None:
        if not (status := status_of(task)):
            return
        if status.step.skip:
            if not status.step.skip.error_if_selected:
                self._skip(status.step)
        elif status.decision is None or not status.decision.fresh:
            self._line("build", status.step, _short(status.decision.reasons) if status.decision else "")

    def add_success(self, task: Task) -> None:
        status = status_of(task)
        if status is None or status.outcome is None:
            return
        if status.outcome.status == "reused":
            same = status.decision is not None and status.decision.fresh
            why = "same inputs as its receipt" if same else "another run has just built it"
            self._line("reuse", status.step, "; ".join([why, *status.outcome.remarks]))
            self._count["reuse"] += 1
        else:
            self._count["build"] += 1
            self._line("done", status.step, "; ".join([_cost(status.outcome), *status.outcome.remarks]))

    def skip_uptodate(self, task: Task) -> None:
        if status := status_of(task):
            self._count["fresh"] += 1
            self._line("fresh", status.step, "; ".join(status.decision.remarks if status.decision else ()))

    def skip_ignore(self, task: Task) -> None:
        if status := status_of(task):
            self._count["skip"] += 1
            self._line("skip", status.step, "ignored with `doit ignore`")

    def add_failure(self, task: Task, fail: BaseFail) -> None:
        if isinstance(fail, UnmetDependency):  # with doit's --continue
            if status := status_of(task):
                self._count["skip"] += 1
                self._line("skip", status.step, f"needs what failed: {fail.get_msg()}")
            return
        self._count["FAIL"] += 1
        self._write(f"FAIL    {task.name}\n{indent(fail.get_msg(), ' ' * 8)}\n")

    def complete_run(self) -> None:
        for error in self._errors:
            self._write(f"{error}\n")
        self.on_end()
        if self._count:
            seconds = time.monotonic() - self._started
            counted = ", ".join(f"{self._count[word]} {past}" for word, past in WORDS.items() if self._count[word])
            self._write(f"{counted} in {seconds:.1f} s\n")

    def runtime_error(self, msg: str) -> None:
        self._errors.append(msg)

    def cleanup_error(self, exception: BaseFail) -> None:
        sys.stderr.write(exception.get_msg())

    def get_status(self, task: Task) -> None:
        """doit calls it before each decision; there is nothing to report yet."""

    def teardown_task(self, task: Task) -> None:
        """No task here has a teardown."""

    def _skip(self, step: Step) -> None:
        if step.skip:
            self._count["skip"] += 1
            self._line("skip", step, step.skip.text)

    def _line(self, word: str, step: Step, reason: str) -> None:
        self._write(f"{word:<7} {step.task:<60} {reason}".rstrip() + "\n")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _short(reasons: Sequence[str]) -> str:
    """The first reasons; `doit why` prints all of them."""
    return listed(reasons, REASONS_IN_A_LINE, separator="; ")


def _cost(outcome: Outcome) -> str:
    return f"{outcome.seconds:.1f} s, peak {outcome.peak_memory / 1e6:,.0f} MB, {outcome.size / 1e6:,.1f} MB written"
