"""A small cache of texts in a folder of the user's own. It may be missing, damaged or deleted at any time.

`$XDG_CACHE_HOME/voxkiln/settings`, by default in `~/.cache`, on macOS in `~/Library/Caches`: one for all checkouts, and
it outlives `doit clean`. Where it cannot be used, everything goes on without it.
"""

import contextlib
import hashlib
import os
import stat
import sys
from pathlib import Path

from tasks.errors import UserError
from tasks.plain_data import write_atomically
from tasks.user_files import read_text

MOST_ENTRIES = 100  # the newest are kept
MOST_BYTES = 2**20  # of an entry; the largest sweeps have half of that


def read(key: str) -> str:
    """What is kept under a key; empty where nothing is, or not what was written."""
    folder = _folder()
    if folder is None or not _is_own(folder):
        return ""
    try:
        digest, _, text = read_text(folder / key, most=MOST_BYTES).partition("\n")
    except UserError:
        return ""
    return text if digest == _digest(key, text) else ""


def write(key: str, text: str) -> None:
    """Keep a text under a key, a name of a file, where that is possible."""
    folder = _folder()
    if folder is None or len(text) > MOST_BYTES - 100:
        return
    with contextlib.suppress(OSError):
        _make(folder)
        if _is_own(folder):
            write_atomically(folder / key, f"{_digest(key, text)}\n{text}")
            _remove_oldest(folder)


def _folder() -> Path | None:
    """None where the environment names no place."""
    home, usual = os.environ.get("HOME", ""), "Library/Caches" if sys.platform == "darwin" else ".cache"
    for base in (Path(os.environ.get("XDG_CACHE_HOME", "")), Path(home, usual)):
        if base.is_absolute():
            return base / "voxkiln" / "settings"
    return None


def _make(folder: Path) -> None:
    """Make the folder if that is in one of the user's own: not in that of another, whose rights one has (sudo)."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if there != folder and there.stat().st_uid == os.geteuid():
        for path in reversed([path for path in (folder, *folder.parents) if there in path.parents]):
            path.mkdir(mode=0o700, exist_ok=True)


def _is_own(folder: Path) -> bool:
    """Whether nobody else can have written into a folder."""
    try:
        status = folder.stat()
    except OSError:
        return False
    others = stat.S_IWGRP | stat.S_IWOTH
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & others


def _digest(key: str, text: str) -> str:
    return hashlib.sha256(f"{key}\n{text}".encode()).hexdigest()


def _remove_oldest(folder: Path) -> None:
    """Another run may do the same at this moment."""
    with_times = [(path.lstat().st_mtime_ns, path) for path in folder.iterdir()]
    for _, path in sorted(with_times, reverse=True)[MOST_ENTRIES:]:
        with contextlib.suppress(OSError):
            path.unlink()
