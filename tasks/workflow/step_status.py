"""A step in the course of a run: what was decided about it and how it went."""

from dataclasses import dataclass

from doit.task import Task

from tasks.child.outcome import Outcome
from tasks.freshness.decide import Decision
from tasks.pipeline.step import Step


@dataclass(repr=False)
class StepStatus:
    """One step in the course of a run; `decision` is taken once, when doit asks whether the step is up to date.

    Attributes:
        problem: why there is no decision.
    """

    step: Step
    decision: Decision | None = None
    problem: str = ""
    outcome: Outcome | None = None

    def __repr__(self) -> str:
        return self.step.task  # `doit info` prints it among the task's attributes


def status_of(task: Task) -> StepStatus | None:
    """The status that a doit task carries; None for the group tasks and commands."""
    return (task.meta or {}).get("status")
