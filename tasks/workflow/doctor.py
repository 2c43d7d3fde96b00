"""What this installation and this machine can do, and which steps are left out because of it."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence

from tasks.freshness.decide import library_version
from tasks.freshness.receipt import Receipt
from tasks.machine import gpus as devices
from tasks.machine import tensorrt_install
from tasks.pipeline.step import Step

LIBRARIES = (
    "voxkiln", "torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime-gpu", "doit", "hydra-core", "omegaconf",
    "transformers", "tiktoken",
)  # fmt: skip


def report(steps: Sequence[Step]) -> Iterator[str]:
    """Lines for a person: versions, devices, providers, and the steps that are skipped."""
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    yield _row("Python", f"{platform.python_version()} on {system}")
    for name in LIBRARIES:
        yield _row(name, library_version(name))
    yield _row("tensorrt", tensorrt_install.tensorrt_version() or "not installed")
    yield from _devices()
    yield from _engines()
    yield ""
    skipped = [step for step in steps if step.skip]
    yield "Steps that are left out:" if skipped else "No step is left out."
    for step in skipped:
        if step.skip:
            yield f"  {step.task}: {step.skip.text}."


def verdict(step: Step) -> str:
    """What a preflight that has passed found, from its receipt: warnings, and the largest profile's memory."""
    receipt = Receipt.read(step.receipt)
    if receipt is None:
        return "not tried"
    peak = max(corner["peak_mib"] for profile in receipt.facts["memory"] for corner in profile.values())
    found = receipt.facts["warnings"] or ["nothing speaks against a plan"]
    return f"{'; '.join(found)}; activations take about {peak:,.0f} MiB at most"


def _devices() -> Iterator[str]:
    gpus = devices.gpus()
    if not gpus:
        yield _row("GPU", "none")
    for gpu in gpus:
        known = f"compute capability {gpu.compute_capability}, driver {gpu.driver}"
        yield _row("GPU", f"{gpu.index}: {gpu.name}, {known}")


def _engines() -> Iterator[str]:
    """Ask the heavy libraries in a process of their own; a broken installation is told, not raised."""
    done = subprocess.run(
        [sys.executable, "-m", "tasks.runtimes.backend_info"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        yield f"PyTorch or ONNX Runtime cannot be used: {done.stderr.strip().splitlines()[-1]}"
        return
    told = json.loads(done.stdout)
    yield _row("PyTorch runs on", told["torch"])
    yield _row("ONNX Runtime", f"providers: {', '.join(told['providers'])}")


def _row(name: str, value: str) -> str:
    return f"{name:<15} {value}"
