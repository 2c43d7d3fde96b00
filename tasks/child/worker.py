"""Executes one request in a process of its own: lock, receipt check, action, proof of the outputs, receipt.

By hand: python -m tasks.child.worker artifacts/.voxkiln/requests/STAGE/MODEL/NAME.json
"""

import contextlib
import os
import platform
import resource
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tasks import progress
from tasks.child.disk import disk_error_message, is_disk_error
from tasks.child.input_digests import Ask, InputDigests
from tasks.child.outcome import Outcome, Written
from tasks.child.request import Request
from tasks.errors import UserError, listed
from tasks.freshness.code import code_digests, used_modules
from tasks.freshness.decide import library_version, staleness
from tasks.freshness.digests import Digests, stamps
from tasks.freshness.receipt import Receipt
from tasks.job import sha256
from tasks.objects import load_object, loaded_modules

MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024  # unit of ru_maxrss


def main(arguments: list[str]) -> int:
    """Execute the request in the file named on the command line; exit code 0, 1 (the user can fix it) or 2 (bug)."""
    progress.prepare_streams()
    outcome = execute(Request.read(Path(arguments[0])))
    text = outcome.message or f"{outcome.status} in {outcome.seconds:.1f} s"
    print(text, file=sys.stdout if outcome.ok else sys.stderr)
    return {"built": 0, "reused": 0, "failed": 1}.get(outcome.status, 2)


def execute(request: Request, ask: Ask | None = None) -> Outcome:
    """Execute a request; every way it can end is an outcome, except being interrupted. `ask`: see `InputDigests`."""
    digests = InputDigests(request, ask)
    try:
        with _locked(request):
            stamps_before = _stamps_of_inputs(request)
            _require_inputs_as_decided(request, digests)
            if not request.always and (receipt := _receipt_of_the_same(request, digests)):
                return Outcome("reused", remarks=list(receipt.remarks))
            return _build(request, digests, stamps_before)
    except UserError as error:
        return Outcome("failed", str(error))
    except MemoryError:
        what, remedy = "there is not enough memory for this step", "Free memory, or run fewer steps at once: -n 1"
        return Outcome("failed", str(UserError(what, where=request.job.step, remedy=remedy)))
    except Exception as error:
        if is_disk_error(error, request.receipt.parent):
            return Outcome("failed", disk_error_message(error, request.receipt.parent))
        return Outcome("crashed", traceback.format_exc())


@contextlib.contextmanager
def _locked(request: Request) -> Iterator[None]:
    request.lock.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(request.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.report(f"waiting for another run that is building {request.job.step}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _receipt_of_the_same(request: Request, inputs: InputDigests) -> Receipt | None:
    """If the outputs are already what this request would make, because another run was faster: their receipt."""
    receipt = Receipt.read(request.receipt, request.job.outputs.values())
    if receipt is None or receipt.step != request.job.step:
        return None
    digests = Digests(request.memo)
    code = code_digests(receipt.ingredients.code, digests)
    now = replace(request.ingredients, inputs=inputs.complete, code=code)
    return None if staleness(receipt, now, request.receipt.parent, digests) else receipt


def _stamps_of_inputs(request: Request) -> dict[Path, list[list[int]]]:
    return {path: stamps(path) for path in request.job.inputs.values() if path.exists()}


def _require_inputs_as_decided(request: Request, digests: InputDigests) -> None:
    """Inputs that have changed since the step was chosen to run would be listed in the receipt as they were.

    Raises:
        UserError: an input is not there or is another one.
    """
    missing = next((role for role, path in request.job.inputs.items() if not path.exists()), None)
    if role := missing or digests.differing():
        what = "an input was removed or renamed" if missing else "an input has changed"
        where = request.job.inputs[role]
        raise UserError(f"{what} since this step was chosen to run", where=where, remedy="Run doit again")


def _require_inputs_untouched(request: Request, before: dict[Path, list[list[int]]]) -> None:
    """What was replaced while the step ran may have been read as either, also if it is back by now.

    Raises:
        UserError: an input was written or replaced.
    """
    after = _stamps_of_inputs(request)
    if changed := [path for path in before if after.get(path) != before[path]]:
        raise UserError("an input changed while the step was running", where=changed[0], remedy="Run again")


def _build(request: Request, digests: InputDigests, stamps_before: dict[Path, list[list[int]]]) -> Outcome:
    started = time.monotonic()
    _require_own_place(request)
    request.make_workdir()
    try:
        results, code = _act(request, digests)
        ingredients = replace(request.ingredients, inputs=digests.complete, code=code)
        _require_inputs_untouched(request, stamps_before)
        outputs = _proven(request)
        execution = _execution(request, time.monotonic() - started)
        _put_in_place(request, outputs)
        request.clear_workdir()  # before the receipt: a finished step leaves nothing behind, whenever it is killed
        listed = {name: {"sha256": output.sha256, "size": output.size} for name, output in outputs.items()}
        Receipt(request.job.step, ingredients, listed, results, execution).write(request.receipt)
    finally:
        request.clear_workdir()
    return Outcome(
        "built",
        seconds=execution["seconds"],
        peak_memory=execution["peak_memory"],
        outputs=outputs,
        remarks=results.get("remarks", []),
    )


def _require_own_place(request: Request) -> None:
    """Nothing of the user's is where the outputs go.

    Raises:
        UserError: a folder is in the place of a file, or a folder that is made anew has files of others.
    """
    folder, old = request.receipt.parent, Receipt.read(request.receipt)
    for path in (request.receipt, *request.job.outputs.values()):
        if path.is_dir():
            raise UserError("is a folder in the place of a file", where=path, remedy="Move or remove it")
    declared = {str(path.relative_to(folder)) for path in request.job.outputs.values()}
    for top in {name.partition("/")[0] for name in declared if "/" in name}:
        there = {str(path.relative_to(folder)) for path in (folder / top).rglob("*") if not path.is_dir()}
        if foreign := there - declared - set(old.outputs if old else ()):
            what = "has files that were not made here, and is made anew as a whole"
            raise UserError(what, where=folder / top, value=listed(sorted(foreign)), remedy="Move or remove them")


def _act(request: Request, inputs: InputDigests) -> tuple[dict[str, Any], dict[str, str]]:
    """Run the action in the private folder; what it reports, and the digests of the code that it used."""
    job, started, before = request.job, time.time(), set(sys.modules)
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as tasks.machine names them; by default CUDA sorts by speed
    action = load_object(job.action)
    _use_threads(job.threads)
    results: dict[str, Any] = action(replace(job, outputs=_private(request), awaited=lambda: inputs.complete))
    digests = Digests(request.memo)
    used = used_modules(job.action, before=before, named=loaded_modules(), digests=digests)
    return results, code_digests(used, digests, newest=started)


def _private(request: Request) -> dict[str, Path]:
    """The job's outputs under their names in the private folder."""
    private = {
        role: request.workdir / path.relative_to(request.receipt.parent) for role, path in request.job.outputs.items()
    }
    for path in private.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    return private


def _use_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if torch := sys.modules.get("torch"):  # the action has imported it, or the warm server has
        torch.set_num_threads(threads)


def _proven(request: Request) -> dict[str, Written]:
    """Digests and sizes of everything the action left, after it has reached the disk."""
    private = _private(request)
    missing = [path.name for path in private.values() if not path.is_file()]
    if missing:
        raise RuntimeError(f"{request.job.action} returned without writing {', '.join(missing)}")
    known = {private[role]: digest for role, digest in request.job.written.items()}
    outputs = {}
    for path in sorted(path for path in request.workdir.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        stat = path.stat()
        outputs[str(path.relative_to(request.workdir))] = Written(
            known.get(path) or sha256(path), stat.st_size, stat.st_mtime_ns
        )
    return outputs


def _put_in_place(request: Request, outputs: dict[str, Written]) -> None:
    workdir, folder = request.workdir, request.receipt.parent
    old = Receipt.read(request.receipt)
    declared = {path.name for path in request.job.outputs.values()}
    names = [path.name for path in workdir.iterdir()]
    for name in sorted(names, key=lambda name: name in declared):  # side files first, the artifact that needs them last
        _replace(workdir / name, folder / name)
    for name in set(old.outputs if old else ()) - set(outputs):
        (folder / name).unlink(missing_ok=True)


def _replace(new: Path, place: Path) -> None:
    """A file by one rename; a folder by two, so that for a moment there is nothing, but never a mixture."""
    if place.is_dir():
        place.rename(new.with_name(f"{new.name}.before"))  # removed with the private folder
    new.replace(place)


def _execution(request: Request, seconds: float) -> dict[str, Any]:
    return {
        "seconds": round(seconds, 3),
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES,
        "threads": request.job.threads,
        "read": {role: str(path) for role, path in request.job.inputs.items()},
        "python": platform.python_version(),
        "voxkiln": library_version("voxkiln"),
        "machine": f"{platform.system()} {platform.machine()}",
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
