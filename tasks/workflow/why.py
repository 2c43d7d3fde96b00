"""`doit why`: what a run would do about each step and why, without running anything."""

import fnmatch
from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.errors import UserError
from tasks.freshness.decide import damage, decide
from tasks.freshness.digests import Digests
from tasks.freshness.receipt import Receipt
from tasks.pipeline.step import Step
from tasks.user_files import unreadable

Rebuilt = dict[Path, tuple[str, str | None]]  # output -> the step that makes it anew, the digest it will have if known


def explain(steps: Sequence[Step], patterns: Sequence[str], digests: Digests) -> None:
    """Print for each step that matches whether it is skipped, stale or fresh, and the reasons that a run would give.

    A step of which an input will be made anew is stale only if that changes the input. Where only the run shows
    whether it does, the step depends on it.
    """
    rebuilt: Rebuilt = {}
    for step in steps:
        receipt = Receipt.read(step.receipt, step.outputs.values())
        reasons, waits_for = ((step.skip.text,), ()) if step.skip else _expected(step, receipt, rebuilt, digests)
        if (reasons or waits_for) and not step.skip:
            same = receipt if not waits_for and _makes_the_same(step, receipt, reasons, digests) else None
            rebuilt |= {path: (step.task, digest) for path, digest in _outputs(step, same)}
        if matches(step, patterns):
            word = "skip" if step.skip else "stale" if reasons else "depends" if waits_for else "fresh"
            print(f"{word:<7} {step.task}")
            for reason in reasons or [f"stale if {task}, which runs first, changes its input" for task in waits_for]:
                print(f"        {reason}")


def matches(step: Step, patterns: Sequence[str]) -> bool:
    """Whether a step is meant: by name, by stage, by the beginning of its name before a colon, or by a wildcard."""
    return not patterns or any(
        fnmatch.fnmatch(step.task, pattern) or step.task.startswith(f"{pattern}:") or step.stage == pattern
        for pattern in patterns
    )


def _expected(
    step: Step, receipt: Receipt | None, rebuilt: Rebuilt, digests: Digests
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The reasons that a run will certainly give, and the steps that may add one by what they make."""
    predicted, waits_for = {}, {}
    old = receipt.ingredients.inputs if receipt else {}
    for role, path in step.inputs.items():
        if path in rebuilt:
            task, digest = rebuilt[path]
            predicted[role] = digest or old.get(role, "")
            if digest is None:
                waits_for[task] = True
    if not all(path.is_file() for role, path in step.inputs.items() if role not in predicted):
        return (), tuple(waits_for)  # doit reports what is not there
    try:
        return decide(step, digests, predicted=predicted).reasons, tuple(waits_for)
    except UserError as error:  # the run fails with it
        return (str(error),), ()
    except OSError as error:  # so it does with this
        return (str(unreadable(Path(error.filename or step.receipt), error)),), ()


def _makes_the_same(step: Step, receipt: Receipt | None, reasons: Sequence[str], digests: Digests) -> bool:
    """Whether all that is wrong is the outputs themselves: what is made again is what the receipt describes."""
    wrong = damage(receipt, step.receipt.parent, digests) if receipt and step.reproducible else []
    return bool(wrong) and list(reasons) == wrong


def _outputs(step: Step, receipt: Receipt | None) -> Iterator[tuple[Path, str | None]]:
    """Each output with the digest that a receipt has of it; without a receipt it is not known."""
    for path in step.outputs.values():
        name = path.relative_to(step.receipt.parent).as_posix()
        yield path, receipt.outputs[name]["sha256"] if receipt else None
