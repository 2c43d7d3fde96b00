"""What an action is given: the files to read and to write, and everything else that decides the bytes."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
        digests: role -> SHA-256 of the inputs, as far as they are known.
    """

    step: str
    action: str
    inputs: dict[str, Path]
    outputs: dict[str, Path]
    params: dict[str, Any] = field(default_factory=dict)
    local: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    digests: dict[str, str] = field(default_factory=dict)

    def digest(self, role: str) -> str:
        """SHA-256 of an input."""
        return self.digests.get(role) or sha256(self.inputs[role])


def sha256(path: Path) -> str:
    """The file's SHA-256 as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
