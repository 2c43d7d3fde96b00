"""Starts the child processes that do the work.

A warm server that has imported torch once forks one child for each step, before any CUDA call: the steps stay apart
(memory, crashes, CUDA) without paying for the import each time. The standard library's forkserver is that server.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from types import FrameType
from typing import NoReturn

from filelock import FileLock, Timeout

from tasks import progress
from tasks.child.request import Order, Outcome

INTERRUPT_PATIENCE_SECONDS = 10.0  # for a child to clean up after itself


def run_in_child(order: Order) -> Outcome:
    """Carry out an order in a child process and wait for it.

    Raises:
        KeyboardInterrupt: after the child has cleaned up and ended.
    """
    ours, theirs = _context().Pipe(duplex=False)
    child = _context().Process(target=_child, args=(order.to_json(), theirs), name=order.job.step)  # type: ignore[attr-defined]
    child.start()
    theirs.close()
    try:
        outcome = Outcome(**ours.recv())
    except EOFError:
        child.join()
        outcome = Outcome("failed", _death_message(order, child.exitcode))
        _clear_after_death(order)
    except KeyboardInterrupt:
        child.join(INTERRUPT_PATIENCE_SECONDS / 2)  # Ctrl-C on a terminal reaches the child, too
        child.terminate()
        child.join(INTERRUPT_PATIENCE_SECONDS / 2)
        child.kill()
        raise
    finally:
        ours.close()
    child.join()
    return outcome


@cache
def _context() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    # Threads that spin while they wait take the cores from each other: on a busy machine ten times as slow.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    return context


def _child(order_json: str, answer: Connection) -> None:
    """Entry of the child: library chatter goes to the log, progress to the terminal, the outcome up the pipe."""
    from tasks.child.worker import run_order  # what a parent with nothing to do need not import

    order = Order.from_json(order_json)
    signal.signal(signal.SIGTERM, _exit)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        _redirect_to_log(order)
        answer.send(run_order(order).to_plain())


def _exit(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _die_with_parent() -> None:
    """A killed doit must not leave children that go on building."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _redirect_to_log(order: Order) -> None:
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    progress.use(terminal)
    order.log.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _clear_after_death(order: Order) -> None:
    with contextlib.suppress(Timeout), FileLock(order.lock, timeout=0):  # held: another run is at it already
        order.clear_workdir()


def _death_message(order: Order, exitcode: int | None) -> str:
    from tasks.child.worker import WRITE_FAILED, disk_message

    if order.log.is_file() and any(phrase in order.log.read_text(errors="replace") for phrase in WRITE_FAILED):
        return disk_message(order.receipt.parent, "PyTorch could not write its file and gave up")
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = " The system may have run out of memory." if name == "SIGKILL" else ""
        return f"the process of this step was ended by {name}.{hint} What its libraries printed: {order.log}"
    return f"the process of this step ended with exit code {exitcode}. What its libraries printed: {order.log}"
