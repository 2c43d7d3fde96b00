"""Runs one order in a process of its own: lock, receipt check, action, proof of the outputs, receipt.

By hand: python -m tasks.child.worker artifacts/.voxkiln/orders/STEP.json
"""

import contextlib
import errno
import importlib
import os
import platform
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tasks import progress
from tasks.child.request import Order, Outcome
from tasks.errors import UserError
from tasks.freshness.decide import damage, library_version
from tasks.freshness.digests import Digests, sha256
from tasks.freshness.receipt import Receipt
from tasks.job import Job

# What the operating system says when the user's disk or permissions are at fault, not the code.
DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}


# How PyTorch's writer words the same, in an error or when it aborts the process.
WRITE_FAILED = ("PytorchStreamWriter failed", "file write failed", "unexpected pos")


def main(arguments: list[str]) -> int:
    """Run the order in the file named on the command line; exit code 0, 1 (mendable) or 2 (bug)."""
    outcome = run_order(Order.from_json(Path(arguments[0]).read_text()))
    print(
        outcome.message or f"{outcome.status} in {outcome.seconds:.1f} s", file=sys.stdout if outcome.ok else sys.stderr
    )
    return {"built": 0, "reused": 0, "failed": 1}.get(outcome.status, 2)


def run_order(order: Order) -> Outcome:
    """Carry out an order; every way it can end is an outcome, except being interrupted."""
    try:
        with _locked(order):
            if not order.force and _is_done(order):
                return Outcome("reused")
            return _build(order)
    except UserError as error:
        return Outcome("failed", str(error))
    except Exception as error:
        if _is_disk_trouble(error, order):
            return Outcome("failed", _disk_message(order, error))
        return Outcome("crashed", traceback.format_exc())


@contextlib.contextmanager
def _locked(order: Order) -> Iterator[None]:
    order.lock.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(order.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.say(f"waiting for another run that is building {order.job.step}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_done(order: Order) -> bool:
    """True if the outputs are already what this order would make: another run was faster."""
    receipt = Receipt.read(order.receipt)
    if receipt is None or receipt.ingredients.key != order.ingredients.key:
        return False
    return not damage(receipt, order.receipt.parent, Digests(order.memo))


def _build(order: Order) -> Outcome:
    started = time.monotonic()
    order.clear_workdir()  # what a killed run left there
    workdir = order.workdir
    workdir.mkdir(parents=True)
    try:
        facts = _act(order.job, workdir, order.receipt.parent)
        outputs = _proven(order.job, workdir, order.receipt.parent)
        run = _run_facts(order, time.monotonic() - started)
        _put_in_place(order, workdir, outputs)
        Receipt(order.job.step, order.ingredients, outputs, facts, run).write(order.receipt)
    finally:
        order.clear_workdir()
    size = sum(output["size"] for output in outputs.values())
    return Outcome("built", seconds=run["seconds"], peak_memory=run["peak_memory"], size=size)


def _act(job: Job, workdir: Path, folder: Path) -> dict[str, Any]:
    module, _, function = job.action.partition(":")
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as tasks.machine.gpus names them; by default CUDA sorts by speed
    _use_threads(job.threads)
    private = {role: workdir / path.relative_to(folder) for role, path in job.outputs.items()}
    for path in private.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    inside = replace(job, outputs=private)
    facts: dict[str, Any] = getattr(importlib.import_module(module), function)(inside)
    return facts


def _use_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch  # every action needs it, and it must be told before it starts its pool

    torch.set_num_threads(threads)


def _proven(job: Job, workdir: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Digests and sizes of everything the action left, after it has reached the disk."""
    missing = [path.name for path in job.outputs.values() if not (workdir / path.relative_to(folder)).is_file()]
    if missing:
        raise RuntimeError(f"{job.action} returned without writing {', '.join(missing)}")
    outputs = {}
    for path in sorted(path for path in workdir.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        outputs[str(path.relative_to(workdir))] = {"sha256": sha256(path), "size": path.stat().st_size}
    return outputs


def _put_in_place(order: Order, workdir: Path, outputs: dict[str, dict[str, Any]]) -> None:
    folder = order.receipt.parent
    old = Receipt.read(order.receipt)
    declared = {path.name for path in order.job.outputs.values()}
    names = [path.name for path in workdir.iterdir()]
    for name in sorted(names, key=lambda name: name in declared):  # side files first, the artifact that needs them last
        _replace(workdir / name, folder / name)
    for name in set(old.outputs if old else ()) - set(outputs):
        (folder / name).unlink(missing_ok=True)


def _replace(new: Path, place: Path) -> None:
    """A file by one rename; a folder by two, so that for a moment there is nothing, but never a mixture."""
    if place.is_dir():
        place.rename(new.with_name(f"{new.name}.before"))  # cleared away with the private folder
    new.replace(place)


def _run_facts(order: Order, seconds: float) -> dict[str, Any]:
    return {
        "seconds": round(seconds, 3),
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "threads": order.job.threads,
        "read": {role: str(path) for role, path in order.job.inputs.items()},
        "python": platform.python_version(),
        "voxkiln": library_version("voxkiln"),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _is_disk_trouble(error: Exception, order: Order) -> bool:
    """PyTorch's and ONNX's writers raise plain RuntimeErrors when the disk is full."""
    if isinstance(error, OSError):
        return error.errno in DISK_TROUBLE
    if any(phrase in str(error) for phrase in WRITE_FAILED):
        return True
    return shutil.disk_usage(order.receipt.parent).free < 1 << 16


def _disk_message(order: Order, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return disk_message(getattr(error, "filename", None) or order.receipt.parent, reason)


def disk_message(where: Path | str, reason: str) -> str:
    """What to tell a user whose disk does not take what is written."""
    folder = next(path for path in (Path(where), *Path(where).absolute().parents) if path.is_dir())
    return (
        f"{where}: cannot write: {reason} ({shutil.disk_usage(folder).free / 1e6:,.0f} MB free). "
        "Free space, mend the permissions, or write elsewhere: artifacts=DIR. Nothing half-written was left."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
