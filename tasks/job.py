"""What an action is given: the files to read and to write, what else decides the bytes, and the processor's cores."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")

RECORDED = "recorded"  # role of inputs that are recorded inputs of a component; several have a number after it


@dataclass(frozen=True)
class Job:
    """One execution of one action.

    Attributes:
        step: full task name, ``export_onnx:demo/flow.decoder.estimator.fp32``.
        action: ``module:function`` of the action.
        inputs: role -> existing file.
        outputs: role -> file to write. Inside an action these lie in a private folder under their final names;
            the worker moves them into place when the action has returned.
        params: everything else that changes the bytes, JSON-plain.
        local: what belongs to this machine and changes no bytes, for example a cache's folder; JSON-plain.
        threads: CPU threads this step may use.
        digests: role -> SHA-256 of the inputs, as far as they are known; empty for those that `awaited` gives.
        awaited: waits for the digests of all inputs, which are computed while the action runs.
        written: role -> SHA-256 of outputs, for the action to put in where it has computed it while it wrote.
    """

    step: str
    action: str
    inputs: dict[str, Path]
    outputs: dict[str, Path]
    params: dict[str, Any] = field(default_factory=dict)
    local: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    digests: dict[str, str] = field(default_factory=dict)
    awaited: Callable[[], Mapping[str, str]] | None = None
    written: dict[str, str] = field(default_factory=dict)

    def digest(self, role: str) -> str:
        """SHA-256 of an input."""
        known = self.digests.get(role) or (self.awaited().get(role) if self.awaited else None)
        return known or sha256(self.inputs[role])


def sha256(path: Path) -> str:
    """The file's SHA-256 as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def available_cores() -> int:
    """Those that this process may run on, where the system knows it; at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def call_side_by_side(function: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Call a function with each item, in as many threads as there are cores.

    Raises:
        Exception: what the call with the first item that fails has raised, after all of them have ended.
    """
    from concurrent.futures import ThreadPoolExecutor  # 9 ms, which runs with nothing to do would pay

    with ThreadPoolExecutor(available_cores()) as pool:
        for _ in pool.map(function, items):
            pass
