"""Folders that cannot be written, also by root."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def read_only(root: Path) -> Iterator[None]:
    """Let nobody write in a folder and those below it; skips the test where root cannot be kept out."""
    folders = [path for path in [root, *root.rglob("*")] if path.is_dir()]
    try:
        for folder in folders:
            _set_writable(folder, False)
        if os.access(root, os.W_OK):
            pytest.skip("this user can write everywhere, and chattr does not work here")
        yield
    finally:
        for folder in folders:
            _set_writable(folder, True)


def _set_writable(folder: Path, writable: bool) -> None:
    if os.geteuid() == 0 and shutil.which("chattr"):
        subprocess.run(["chattr", "-i" if writable else "+i", str(folder)], check=False, capture_output=True)
    else:
        folder.chmod(0o755 if writable else 0o555)
