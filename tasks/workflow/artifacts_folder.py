"""The artifacts folder of a command: made where it is missing, and only read where it cannot be written."""

import os
import sys
from pathlib import Path

from tasks import paths
from tasks.errors import UserError
from tasks.workflow.doit_freshness import readable_or_removed

READING = {"list", "info", "why", "settings", "doctor"}  # commands that write nothing


def words() -> set[str]:
    """The words of doit's command line that name a command or tasks, among others."""
    return {word for word in sys.argv[1:] if not word.startswith("-") and "=" not in word}


def prepare(root: Path) -> None:
    """Make the folder of our own files.

    Raises:
        UserError: it cannot be written, and the command has to.
    """
    state = paths.state_folder(root)
    why = ""
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or str(error)
    if not why and not os.access(state, os.W_OK):
        why = "it is read-only"
    if why and not words() & READING:
        remedy = "Fix the permissions, or write elsewhere: artifacts=DIR"
        raise UserError("cannot write artifacts there", where=root, value=why, remedy=remedy)


def database(root: Path) -> dict[str, str]:
    """Where doit keeps its database, as settings of doit: in memory where it cannot be written."""
    state = paths.state_folder(root)
    if not os.access(state, os.W_OK):
        return {"dep_file": ":memory:", "backend": "sqlite3"}
    return {"dep_file": str(readable_or_removed(state / "doit.json")), "backend": "json"}
