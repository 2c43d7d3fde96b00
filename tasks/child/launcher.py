"""Launches the child processes that do the work.

A warm server that has imported torch once forks one child for each step, before any CUDA call: the steps stay apart
(memory, crashes, CUDA) without paying for the import each time. The standard library's forkserver is that server.
"""

import contextlib
import errno
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from functools import cache, partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from filelock import FileLock, Timeout

from tasks import progress
from tasks.child.outcome import Outcome
from tasks.child.request import Request
from tasks.child.sockets import forget_sockets, keep_sockets_in
from tasks.child.source_imports import import_own_code_from_source
from tasks.errors import reason

ASKS = "digests"  # what a child sends that needs those that are awaited
NO_RESOURCES = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
INTERRUPT_PATIENCE_SECONDS = 10.0  # for a child to clean up after itself


def run_in_child(file: Path, awaited: Callable[[], Mapping[str, str]] = dict) -> Outcome:
    """Execute the request in a file in a child process and wait for it.

    Args:
        awaited: gives the child the digests that were not known when the request was written, by role.

    Raises:
        KeyboardInterrupt: after the child has ended and what it had half-written is removed.
    """
    request = Request.read(file)
    context = _context(request.memo.parent)
    ours, theirs = context.Pipe()
    child = context.Process(target=_child, args=(str(file), theirs), name=request.job.step)  # type: ignore[attr-defined]
    try:
        child.start()
    except (EOFError, OSError) as error:
        if not isinstance(error, EOFError | ConnectionError) and error.errno not in NO_RESOURCES:
            raise
        ours.close()
        return Outcome("failed", _not_started(error))  # the server that forks children has died, or could not fork
    finally:
        theirs.close()
    try:
        outcome = Outcome.from_plain(_answer(ours, awaited))
    except (EOFError, ConnectionError):
        child.join()
        outcome = Outcome("failed", _death_message(request, child.exitcode))
        _clear_after_death(request)
    except KeyboardInterrupt:
        child.join(INTERRUPT_PATIENCE_SECONDS / 2)  # Ctrl-C on a terminal reaches the child, too
        child.terminate()
        child.join(INTERRUPT_PATIENCE_SECONDS / 2)
        child.kill()
        child.join()
        _clear_after_death(request)
        raise
    finally:
        ours.close()
    child.join()
    return outcome


def _answer(child: Connection, awaited: Callable[[], Mapping[str, str]]) -> dict[str, Any]:
    """What the child says at its end."""
    while (message := child.recv()) == ASKS:
        child.send(dict(awaited()))
    answer: dict[str, Any] = message
    return answer


def warm_up(state: Path) -> None:
    """Let the server import what children need, while this process does something else; it need not wait for that."""
    with contextlib.suppress(OSError):  # which the first child will meet as well, and report
        if _context(state).get_start_method() == "forkserver":
            forkserver.ensure_running()


@cache
def _context(state: Path) -> BaseContext:
    """How children are started; a server's socket is kept in `state`."""
    # What lies in the current folder, a model's for example, must not stand in for modules of Python.
    os.environ["PYTHONSAFEPATH"] = "1"
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    keep_sockets_in(state)
    # Threads that spin while they wait take the cores from each other: on a busy machine ten times as slow.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    return context


def _child(file: str, parent: Connection) -> None:
    """Entry of the child: library output goes to the log, progress to the terminal, the outcome up the pipe."""
    import_own_code_from_source()
    from tasks.child.worker import execute  # what a parent with nothing to do need not import

    forget_sockets()
    request = Request.read(Path(file))
    signal.signal(signal.SIGTERM, _exit)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        _redirect_to_log(request)
        parent.send(execute(request, partial(_ask, parent)).to_plain())


def _ask(parent: Connection) -> dict[str, str]:
    parent.send(ASKS)
    digests: dict[str, str] = parent.recv()
    return digests


def _exit(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _die_with_parent() -> None:
    """A killed doit must not leave children that go on building."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _redirect_to_log(request: Request) -> None:
    progress.prepare_streams()
    terminal = os.fdopen(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
    progress.use(terminal)
    request.log.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _not_started(error: EOFError | OSError) -> str:
    why = f" ({reason(error)})" if str(error) else ""
    return f"no process could be started for this step{why}. Free memory, or allow more (ulimit -v), and run again."


def _clear_after_death(request: Request) -> None:
    with contextlib.suppress(Timeout), FileLock(request.lock, timeout=0):  # held: another run is at it already
        request.clear_workdir()


def _death_message(request: Request, exitcode: int | None) -> str:
    from tasks.child.disk import FULL_BYTES, WRITE_FAILED, disk_message, free_bytes

    log = request.log
    is_full = free_bytes(log) < FULL_BYTES  # then the log is empty as well
    if is_full or (log.is_file() and any(phrase in log.read_text(errors="replace") for phrase in WRITE_FAILED)):
        return disk_message(request.receipt.parent, "PyTorch could not write its file and gave up")
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = " The system may have run out of memory." if name == "SIGKILL" else ""
        return f"the process of this step was ended by {name}.{hint} What its libraries printed: {log}"
    return f"the process of this step ended with exit code {exitcode}. What its libraries printed: {log}"
