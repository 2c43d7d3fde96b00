"""A folder for the socket of the server that forks the children, which neither kills nor long paths can spoil.

The standard library makes one in the temporary folder: a killed run leaves it there, and where that folder's path is
long, the socket's exceeds what the system takes. Ours lies beside the locks; what a killed run leaves is removed by the
next one.
"""

import atexit
import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
from multiprocessing import process
from pathlib import Path

from filelock import FileLock

LISTENER = "listener-xxxxxxxx"  # as long as the names that the standard library gives


def keep_sockets_in(state: Path) -> None:
    """Let multiprocessing use a folder below `state` for as long as this process runs, where sockets can be there."""
    state.mkdir(parents=True, exist_ok=True)
    sockets = state / "sockets"
    with FileLock(state / "sockets.lock"):
        sockets.mkdir(exist_ok=True)
        _remove_abandoned(sockets)
        folder = Path(tempfile.mkdtemp(dir=sockets))
        held = _locked(folder)  # until this process ends, however it does
    short = Path(f"/proc/self/fd/{held}")  # of any length that a socket's path can have
    usable = next((path for path in (short, folder) if _takes_sockets(path)), None)
    if usable:
        process.current_process()._config["tempdir"] = str(usable)  # type: ignore[attr-defined]
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def forget_sockets() -> None:
    """In a child: what its parent uses is not its own."""
    process.current_process()._config.pop("tempdir", None)  # type: ignore[attr-defined]


def _remove_abandoned(sockets: Path) -> None:
    for folder in sockets.iterdir():
        with contextlib.suppress(OSError):  # locked: its process runs
            os.close(_locked(folder))
            shutil.rmtree(folder, ignore_errors=True)


def _locked(folder: Path) -> int:
    """An open descriptor of a folder that is locked until it is closed.

    Raises:
        OSError: another process has locked it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _takes_sockets(folder: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as trial, contextlib.suppress(OSError):
        trial.bind(str(folder / LISTENER))
        (folder / LISTENER).unlink()
        return True
    return False
