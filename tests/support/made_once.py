"""Artifacts that many tests read and none changes, made once for all processes that run tests."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` that `make` fills; whoever comes first makes it, the others wait."""
    own = factory.getbasetemp()
    root = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    with FileLock(f"{root}.lock"):
        if not (root / "made").exists():
            root.mkdir(exist_ok=True)
            make(root)
            (root / "made").touch()
    return root
