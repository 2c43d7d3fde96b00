"""doit's database: a cache here, which may be missing, damaged or impossible to write without harm to a run."""

import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.plain_data import read_json_object, write_atomically


class DatabaseFile:
    """The codec that doit's JSON database is given: it keeps the entries itself, in a file that doit does not open.

    doit opens its file for every command and ends in a traceback where it cannot; so it is given one that always
    opens (os.devnull). It decodes when a command begins and encodes when the command ends.

    Args:
        at_end: called when the command ends.
        required: the command does nothing but write the database, as `doit forget`.
    """

    def __init__(self, path: Path, *, at_end: Callable[[], None], required: bool) -> None:
        self._path, self._at_end, self._required = path, at_end, required

    def decode(self, _text: str) -> dict[str, Any]:
        """The entries, by task; none if the file is missing or damaged."""
        entries = read_json_object(self._path)
        return entries if all(isinstance(entry, dict) for entry in entries.values()) else {}

    def encode(self, entries: Mapping[str, Any]) -> str:
        """Write the entries if they have changed and that is possible; the receipts decide without them.

        Raises:
            SystemExit: they could not be written, and the command is of no use then.
        """
        try:
            self._write(json.dumps(entries))
        except OSError as error:
            if self._required:
                remedy = "Free space or fix the permissions"
                sys.exit(str(UserError("cannot be written", where=self._path, value=error.strerror, remedy=remedy)))
        self._at_end()
        return ""

    def _write(self, text: str) -> None:
        """Waiting for the disk takes as long as deciding about a hundred steps, so not for what is there already."""
        with contextlib.suppress(OSError):
            if self._path.read_bytes() == text.encode():
                return
        write_atomically(self._path, text)
