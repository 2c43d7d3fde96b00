"""Calls TorchScript files in a process of its own that cannot import this project.

The program below is handed to a bare interpreter; it knows nothing but torch, the file and the calls to make.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

PROGRAM = """
import sys
sys.modules["tasks"] = None  # every import of it fails, wherever it is installed
import torch
def called(module, calls, last=()):
    for call in calls:
        state = {name: last[1 + i] for i, name in enumerate(call["continues"])}
        last = getattr(module, call["method"])(**call["arguments"], **state)
        yield last
with torch.inference_mode():
    files = torch.load(sys.argv[1])
    torch.save({path: list(called(torch.jit.load(path), calls)) for path, calls in files.items()}, sys.argv[2])
"""


@dataclass(frozen=True)
class Call:
    """One call of a method; arguments in ``continues`` are the further outputs of the call before."""

    arguments: dict[str, Any]
    method: str = "forward"
    continues: tuple[str, ...] = field(default=())


def call_isolated(files: Mapping[Path, Sequence[Call]], folder: Path) -> dict[Path, list[tuple[torch.Tensor, ...]]]:
    """What each file returns for each of its successive calls."""
    torch.save({str(path): [asdict(call) for call in calls] for path, calls in files.items()}, folder / "calls.pt")
    command = [sys.executable, "-I", "-W", "ignore", "-c", PROGRAM, folder / "calls.pt", folder / "results.pt"]
    subprocess.run(command, check=True, cwd=folder)
    return {Path(path): results for path, results in torch.load(folder / "results.pt", weights_only=True).items()}
