"""Removes what a step has made: `doit clean`."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from tasks.freshness.receipt import Receipt
from tasks.paths import failed_report
from tasks.pipeline.step import Step


def clean(step: Step, dryrun: bool) -> None:
    """doit's clean: what the step has made, its receipt, and folders that are empty then."""
    folder = step.receipt.parent
    for path in _made(step):
        if path.exists():
            print(f"{step.task}: removing {path}")
            if not dryrun:
                path.unlink()
    if not dryrun:
        shutil.rmtree(folder / ".partial", ignore_errors=True)
        for emptied in (step.folder, folder):
            if emptied and emptied.is_dir() and not any(emptied.iterdir()):
                emptied.rmdir()


def _made(step: Step) -> Iterator[Path]:
    """The outputs, files beside them that only the receipt knows, the receipt, the report of a failed verification."""
    receipt, folder = Receipt.read(step.receipt), step.receipt.parent
    names = {str(path.relative_to(folder)) for path in step.outputs.values()} | set(receipt.outputs if receipt else ())
    yield from (folder / name for name in sorted(names))
    yield step.receipt
    if "artifact" in step.inputs:
        yield failed_report(step.inputs["artifact"])
