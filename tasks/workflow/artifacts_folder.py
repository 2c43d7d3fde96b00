"""The artifacts folder of a command: made where it is missing, and only read where it cannot be written."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tasks import paths
from tasks.errors import UserError
from tasks.pipeline.step import Step
from tasks.workflow.doit_database import DatabaseFile

READING = {"list", "info", "why", "settings", "doctor"}  # commands that write nothing
REMEMBERING = {"forget", "ignore", "reset-dep"}  # commands that write nothing but doit's database


def words() -> set[str]:
    """The words of doit's command line that name a command or tasks, among others."""
    return {word for word in sys.argv[1:] if not word.startswith("-") and "=" not in word}


def prepare(root: Path) -> None:
    """Make the folder of our own files.

    Raises:
        UserError: it cannot be written, and the command has to; it cannot even be read.
    """
    state = paths.state_folder(root)
    if words() & READING:
        _require_entry(root)
    else:
        _require_folders([state], root)
    why = ""
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or str(error)
    if not why and not os.access(state, os.W_OK | os.X_OK):
        why = "it is read-only"
    if why and not words() & READING:
        remedy = "Free space, fix the permissions, or write elsewhere: artifacts=DIR"
        raise UserError("cannot write artifacts there", where=root, value=why, remedy=remedy)


def require_folders(steps: Sequence[Step], root: Path) -> None:
    """No file may lie where the steps need a folder.

    Raises:
        UserError: one does, and the command writes.
    """
    if words() & READING:
        return
    needed = [paths.sockets(root), paths.timing_caches(root)]
    for step in steps:
        own = (paths.lock_path, paths.request_path, paths.log_path)
        needed += [place(root, step.task).parent for place in own]
        needed += [step.receipt.parent / ".partial", *(path.parent for path in step.outputs.values())]
    _require_folders(list(dict.fromkeys(needed)), root)


def database(root: Path, at_end: Callable[[], None]) -> dict[str, Any]:
    """How doit remembers what it has done, as settings of doit.

    Args:
        at_end: called when a command that may write ends.
    """
    file = paths.state_folder(root) / "doit.json"
    codec = partial(DatabaseFile, file, at_end=at_end, required=bool(words() & REMEMBERING))
    return {"dep_file": os.devnull, "backend": "json", "codec_cls": codec}


def _require_entry(root: Path) -> None:
    try:
        paths.state_folder(root).stat()
    except PermissionError as error:
        remedy = "Fix the permissions, or name another folder: artifacts=DIR"
        raise UserError("cannot be read", where=root, value=error.strerror, remedy=remedy) from None
    except OSError:
        return  # nothing there yet, or a file: there are no artifacts


def _require_folders(folders: Sequence[Path], root: Path) -> None:
    within: dict[Path, None] = {}
    for folder in folders:
        _add(folder, root, within)
    for path in within:
        if os.path.lexists(path) and not path.is_dir():
            kind = "file" if path.exists() else "broken link"
            remedy = "Move or remove it, or write elsewhere: artifacts=DIR"
            raise UserError(f"is a {kind} in the place of a folder", where=path, remedy=remedy)


def _add(path: Path, root: Path, within: dict[Path, None]) -> None:
    """Add a folder after those on the way to it from the root; most steps share theirs."""
    if path not in within and (path == root or root in path.parents):
        _add(path.parent, root, within)
        within[path] = None
