"""A dodo file that makes every step of its settings fresh without running one: `doit -f THIS -d CHECKOUT SETTING...`

It writes small files in the place of the outputs, and for each step the receipt that a run would have written, with the
code that the action imports directly or through others. Only for measuring what it costs to find that nothing is to do.
"""

from pathlib import Path
from typing import Any

from dodo import DOIT_CONFIG as OF_THE_PROJECT
from dodo import workflow
from tasks.freshness.decide import ingredients
from tasks.freshness.digests import Digests
from tasks.freshness.receipt import Receipt
from tasks.job import sha256
from tasks.objects import find_source
from tasks.pipeline.step import Step

DOIT_CONFIG = OF_THE_PROJECT | {"default_tasks": ["write"]}
HEAVY = ("tasks.actions", "tasks.models", "tasks.runtimes", "tasks.training", "tasks.settings")
CONTENT = bytes(1000)


def task_write() -> dict[str, Any]:
    return {"actions": [_write_all]}


def _write_all() -> None:
    modules: dict[str, list[str]] = {}
    for step in (status.step for status in workflow.statuses if not status.step.skip):
        if step.action not in modules:
            modules[step.action] = _imported(step.action.partition(":")[0], workflow.digests)
        _write(step, modules[step.action], workflow.digests)


def _write(step: Step, modules: list[str], digests: Digests) -> None:
    for path in step.outputs.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENT)
    folder = step.receipt.parent
    outputs = {
        path.relative_to(folder).as_posix(): {"sha256": sha256(path), "size": len(CONTENT)}
        for path in step.outputs.values()
    }
    Receipt(step.task, ingredients(step, digests, modules=modules), outputs, {}, {}).write(step.receipt)


def _imported(action: str, digests: Digests) -> list[str]:
    found: dict[str, Path] = {}
    waiting = {action}
    while waiting:
        name = waiting.pop()
        if name not in found and name.startswith(HEAVY) and (source := find_source(name)):
            found[name] = source
            waiting.update(digests.of_source(source, package=name.rpartition(".")[0])[1])
    return sorted(found)
