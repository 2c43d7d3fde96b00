"""What a measurement was made on and of: the machine and its load, versions, and the commits of both sides."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks.sides import ROOT, Published

LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "doit", "hydra-core")
OF_THE_PUBLISHED_SIDE = (*LIBRARIES[:5], "diffusers", "x-transformers", "transformers")
MEASURED = ("dodo.py", "conf", "tasks", "tests/benchmarks/*.py")  # a change elsewhere changes no figure
ASK_VERSIONS = (
    "import importlib.metadata as m, json, sys\n"
    "there = {d.metadata['Name']: d.version for d in reversed(list(m.distributions()))}\n"
    "print(json.dumps({name: there[name] for name in sys.argv[1:] if name in there}))\n"
)


def of_this_run(checkout: Published | None) -> dict[str, Any]:
    found = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": _git(ROOT, "rev-parse", "--short", "HEAD"),
        "modified": bool(_git(ROOT, "status", "--porcelain", "--", *MEASURED)),
        "machine": machine(),
        "load": load(),
        "versions": {"python": platform.python_version()} | _versions(Path(sys.executable), LIBRARIES),
    }
    return found | ({} if checkout is None else {"published": _published(checkout)})


def machine() -> dict[str, Any]:
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "cpu": cpu.partition(":")[2].strip() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def load() -> float:
    """Processes that wanted a core, on average over the last minute."""
    return round(os.getloadavg()[0], 2)


def _versions(python: Path, libraries: Sequence[str]) -> dict[str, str]:
    asked = subprocess.run([python, "-c", ASK_VERSIONS, *libraries], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(asked.stdout)
    return found


def _published(side: Published) -> dict[str, Any]:
    return {
        "commit": _git(side.checkout, "rev-parse", "--short", "HEAD"),
        "matcha": _git(side.checkout / "third_party" / "Matcha-TTS", "rev-parse", "--short", "HEAD"),
        "versions": _versions(side.python, OF_THE_PUBLISHED_SIDE),
    }


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    return done.stdout.strip()
