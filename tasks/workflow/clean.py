"""Removes what a step has made: `doit clean`."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.errors import UserError
from tasks.freshness.receipt import Receipt
from tasks.paths import failed_report, lock_path
from tasks.pipeline.step import Step


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


def clean(step: Step, root: Path, dryrun: bool) -> None:
    """doit's clean: what the step has made, its receipt, and folders that are empty then."""
    if dryrun:
        _name(step)
        return
    from filelock import FileLock

    lock = lock_path(root, step.task)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):  # a run that begins now waits until all of it is gone
        for path in _name(step):
            path.unlink()
        _remove_folders(step)


def _name(step: Step) -> list[Path]:
    found = [path for path in _made(step) if path.exists()]
    for path in found:
        print(f"{step.task}: removing {path}")
    return found


def _remove_folders(step: Step) -> None:
    """What a killed run of this step left, and folders that are empty."""
    folder = step.receipt.parent
    private = folder / ".partial"
    shutil.rmtree(private / step.receipt.name.removesuffix(".receipt.json"), ignore_errors=True)
    for emptied in (private, step.folder, folder):
        with contextlib.suppress(OSError):  # not empty, or not there
            if emptied:
                emptied.rmdir()


def _made(step: Step) -> Iterator[Path]:
    """The outputs, files beside them that only the receipt knows, the receipt, the report of a failed verification."""
    receipt, folder = Receipt.read(step.receipt), step.receipt.parent
    names = {str(path.relative_to(folder)) for path in step.outputs.values()} | set(receipt.outputs if receipt else ())
    yield from (folder / name for name in sorted(names))
    yield step.receipt
    if "artifact" in step.inputs:
        yield failed_report(step.inputs["artifact"])
