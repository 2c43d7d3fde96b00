"""Removes what a step has made: `doit clean`."""

import contextlib
import os.path
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.errors import UserError, listed
from tasks.freshness.receipt import Receipt
from tasks.paths import lock_path
from tasks.pipeline.step import Step
from tasks.progress import Unfailing


def refuse_beside_a_run(steps: Sequence[Step], root: Path) -> None:
    """Nothing is removed from under a run.

    Raises:
        UserError: a step is being built.
    """
    from filelock import FileLock, Timeout  # what a run with nothing to do need not import

    for step in steps:
        if (lock := lock_path(root, step.task)).is_file():
            try:
                with FileLock(lock, timeout=0):
                    pass
            except Timeout:
                what, remedy = "another run is building this step", "Clean again when that run has ended"
                raise UserError(f"{what}; nothing was removed", where=step.task, remedy=remedy) from None
            except OSError:
                continue  # it cannot be taken; `clean` says so


def clean(step: Step, root: Path, problems: list[str], dryrun: bool) -> None:
    """doit's clean: what the step has made, its receipt, and folders that are empty then.

    doit neither stops nor fails where this raises an error, so what could not be removed is added to `problems`.
    """
    ours, others = _found(step)
    for path in others:
        _say(f"{step.task}: leaving {path}, which no receipt describes")
    if dryrun:
        for path in ours:
            _say(f"{step.task}: removing {path}")
        return
    from filelock import FileLock

    lock = lock_path(root, step.task)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):  # a run that begins now waits until all of it is gone
            _remove(step, problems)
    except OSError as error:
        problems.append(f"{lock}: {error.strerror}")


def end_of_clean(problems: Sequence[str]) -> None:
    """End the process with a message and exit code 1 if something could not be removed; doit would end with 0.

    Raises:
        SystemExit: something could not be removed.
    """
    if problems:
        remedy = "Fix the permissions, or move or remove what is there; then clean again"
        found = listed(dict.fromkeys(problems), separator="; ")
        sys.exit(f"ERROR: {UserError('some files could not be removed', value=found, remedy=remedy)}")


def _remove(step: Step, problems: list[str]) -> None:
    """The receipt goes last and only if all that it describes is gone: without it nobody knows whose the rest is."""
    ours, _ = _found(step)
    failed = False
    for path in ours:
        if failed and path == step.receipt:
            continue
        _say(f"{step.task}: removing {path}")
        try:
            path.unlink()
        except OSError as error:
            problems.append(f"{path}: {'is a folder' if path.is_dir() else error.strerror}")
            failed = True
    _remove_folders(step)


def _say(text: str) -> None:
    print(text, file=Unfailing(sys.stdout), flush=True)  # `doit clean | head` goes on


def _remove_folders(step: Step) -> None:
    """What a killed run of this step left, and folders that are empty."""
    folder = step.receipt.parent
    private = folder / ".partial"
    shutil.rmtree(private / step.receipt.name.removesuffix(".receipt.json"), ignore_errors=True)
    for emptied in (private, step.folder, folder):
        with contextlib.suppress(OSError):  # not empty, or not there
            if emptied:
                emptied.rmdir()


def _found(step: Step) -> tuple[list[Path], list[Path]]:
    """What is there of a step, its receipt last; and what lies at the place of an output without being one."""
    receipt, folder = Receipt.read(step.receipt), step.receipt.parent
    described = [folder / name for name in sorted(receipt.outputs if receipt else ())]
    made = [*([step.failed_report] if step.failed_report else ()), *described, step.receipt]
    ours = [path for path in made if os.path.lexists(path)]
    return ours, [path for path in step.outputs.values() if os.path.lexists(path) and path not in described]
