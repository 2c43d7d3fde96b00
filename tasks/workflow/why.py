"""`doit why`: what a run would do about each step and why, without running anything."""

import fnmatch
from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.freshness.decide import decide
from tasks.freshness.digests import Digests
from tasks.pipeline.step import Step


def explain(steps: Sequence[Step], patterns: Sequence[str], digests: Digests) -> None:
    """Print for each step that matches whether it is skipped, stale or fresh, and the reasons."""
    rebuilt: dict[Path, str] = {}
    for step in steps:
        reasons = list(_expected_reasons(step, rebuilt, digests))
        if reasons and not step.skip:
            rebuilt |= dict.fromkeys(step.outputs.values(), step.task)
        if matches(step, patterns):
            word = "skip" if step.skip else "stale" if reasons else "fresh"
            print(f"{word:<7} {step.task}")
            for reason in reasons:
                print(f"        {reason}")


def matches(step: Step, patterns: Sequence[str]) -> bool:
    """Whether a step is meant: by name, by stage, by the beginning of its name before a colon, or by a wildcard."""
    return not patterns or any(
        fnmatch.fnmatch(step.task, pattern) or step.task.startswith(f"{pattern}:") or step.stage == pattern
        for pattern in patterns
    )


def _expected_reasons(step: Step, rebuilt: dict[Path, str], digests: Digests) -> Iterator[str]:
    if step.skip:
        yield step.skip.text
        return
    waiting = {role: rebuilt[path] for role, path in step.inputs.items() if path in rebuilt}
    for task in dict.fromkeys(waiting.values()):
        yield f"{task} runs first, which may change its input"
    if all(path.is_file() for path in step.inputs.values()):
        yield from decide(step, digests).reasons
