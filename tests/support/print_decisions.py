"""A dodo file for copies of the project: `doit -f THIS -d COPY` prints the direct reasons of every step as JSON.

Nothing is run, and no step is reported only because another one before it is stale.
"""

import json
from typing import Any

from dodo import DOIT_CONFIG as OF_THE_PROJECT
from dodo import workflow
from tasks.freshness.decide import decide
from tasks.pipeline.step import Step

DOIT_CONFIG = OF_THE_PROJECT | {"default_tasks": ["decisions"]}


def _reasons(step: Step) -> tuple[str, ...]:
    try:
        return decide(step, workflow.digests).reasons
    except FileNotFoundError:  # an input that another step has to make first
        return ()


def _print() -> None:
    print(json.dumps({status.step.task: _reasons(status.step) for status in workflow.statuses if not status.step.skip}))


def task_decisions() -> dict[str, Any]:
    return {"actions": [_print]}
