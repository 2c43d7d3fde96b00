"""What a run prints: one line for each step with the reason for what is done about it, and a summary."""

import fnmatch
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from doit.exceptions import BaseFail, UnmetDependency
from doit.task import Task

from tasks.child.request import Outcome
from tasks.freshness.decide import Decision, decide
from tasks.freshness.digests import Digests
from tasks.pipeline.step import Step

WORDS = {"build": "built", "reuse": "reused", "fresh": "fresh", "skip": "skipped", "FAIL": "failed"}

REASONS_IN_A_LINE = 3


@dataclass(repr=False)
class Run:
    """One step in the course of a run."""

    step: Step
    decision: Decision | None = None
    outcome: Outcome | None = None

    def __repr__(self) -> str:
        return self.step.task  # `doit info` prints it among the task's attributes


class Reporter:
    """doit's reporter: build / reuse / fresh / skip / FAIL, the step, the reason."""

    desc = "what is built and why"

    on_end: Callable[[], None]  # called after the last step

    def __init__(self, outstream: TextIO, options: dict[str, Any]) -> None:
        self._out = outstream
        self._count: Counter[str] = Counter()
        self._started = time.monotonic()
        self._errors: list[str] = []

    def initialize(self, tasks: dict[str, Task], selected_tasks: list[str]) -> None:
        """Name what the selected groups leave out."""
        left_out = [run for name in selected_tasks for run in (tasks[name].meta or {}).get("left_out", ())]
        for run in left_out:
            self._skip(run.step)

    def execute_task(self, task: Task) -> None:
        if run := _run(task):
            if run.step.skip:
                if not run.step.skip.refuses:
                    self._skip(run.step)
            elif run.decision is None or not run.decision.fresh:
                self._line("build", run.step, _short(run.decision.reasons) if run.decision else "")

    def add_success(self, task: Task) -> None:
        run = _run(task)
        if run is None or run.outcome is None:
            return
        if run.outcome.status == "reused":
            same = run.decision is not None and run.decision.fresh
            self._line("reuse", run.step, "same inputs as its receipt" if same else "another run has just built it")
            self._count["reuse"] += 1
        else:
            self._count["build"] += 1
            self._line("done", run.step, _cost(run.outcome))

    def skip_uptodate(self, task: Task) -> None:
        if run := _run(task):
            self._count["fresh"] += 1
            self._line("fresh", run.step, "")

    def skip_ignore(self, task: Task) -> None:
        if run := _run(task):
            self._count["skip"] += 1
            self._line("skip", run.step, "ignored with `doit ignore`")

    def add_failure(self, task: Task, fail: BaseFail) -> None:
        if isinstance(fail, UnmetDependency):  # with doit's --continue
            if run := _run(task):
                self._count["skip"] += 1
                self._line("skip", run.step, f"needs what failed: {fail.get_msg()}")
            return
        self._count["FAIL"] += 1
        self._write(f"FAIL    {task.name}\n{_indented(fail.get_msg())}\n")

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
        """doit calls it before each decision; nothing to say yet."""

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


def explain(steps: Sequence[Step], patterns: Sequence[str], digests: Digests) -> None:
    """Print what a run would do about each step that matches, and why, without running anything."""
    made_anew: dict[Path, str] = {}
    for step in steps:
        reasons = list(_foretold(step, made_anew, digests))
        if reasons and not step.skip:
            made_anew |= dict.fromkeys(step.outputs.values(), step.task)
        if matches(step, patterns):
            word = "skip" if step.skip else "stale" if reasons else "fresh"
            print(f"{word:<7} {step.task}")
            for reason in reasons:
                print(f"        {reason}")


def _foretold(step: Step, made_anew: dict[Path, str], digests: Digests) -> Iterator[str]:
    if step.skip:
        yield step.skip.text
        return
    waiting = {role: made_anew[path] for role, path in step.inputs.items() if path in made_anew}
    for task in dict.fromkeys(waiting.values()):
        yield f"{task} is to run first, which may change its input"
    if all(path.is_file() for path in step.inputs.values()):
        yield from decide(step, digests).reasons


def matches(step: Step, patterns: Sequence[str]) -> bool:
    """Whether a step is meant: by name, by stage, by the beginning of its name before a colon, or by a wildcard."""
    return not patterns or any(
        fnmatch.fnmatch(step.task, pattern) or step.task.startswith(f"{pattern}:") or step.stage == pattern
        for pattern in patterns
    )


def _short(reasons: Sequence[str]) -> str:
    """The first reasons; `doit why` has them all."""
    more = len(reasons) - REASONS_IN_A_LINE
    return "; ".join(reasons[:REASONS_IN_A_LINE]) + (f"; and {more} more" if more > 0 else "")


def _run(task: Task) -> Run | None:
    return (task.meta or {}).get("run")


def _cost(outcome: Outcome) -> str:
    return f"{outcome.seconds:.1f} s, peak {outcome.peak_memory / 1e6:,.0f} MB, {outcome.size / 1e6:,.1f} MB written"


def _indented(text: str) -> str:
    return "\n".join(f"        {line}" for line in text.splitlines())
