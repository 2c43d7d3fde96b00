"""`doit doctor`: what this installation and this machine can do, and which steps are skipped because of it."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence

from tasks.freshness.decide import NOT_INSTALLED, decide, library_version
from tasks.freshness.digests import Digests
from tasks.freshness.receipt import Receipt
from tasks.machine import tensorrt_install
from tasks.machine.gpus import gpus
from tasks.pipeline.step import Step

LIBRARIES = (
    "voxkiln", "torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "doit", "hydra-core", "omegaconf",
    "transformers", "tiktoken",
)  # fmt: skip


def report(steps: Sequence[Step], digests: Digests) -> Iterator[str]:
    """Lines for a person: versions, devices, providers, the steps that are skipped, what preflight has found."""
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    yield _row("Python", f"{platform.python_version()} on {system}")
    for name in LIBRARIES:
        yield _row(name, library_version(name))
    yield _row("tensorrt", tensorrt_install.tensorrt_version() or NOT_INSTALLED)
    yield from _devices()
    yield from _engines()
    yield ""
    skipped = [(step, step.skip) for step in steps if step.skip]
    yield "Steps that are skipped:" if skipped else "No step is skipped."
    yield from (f"  {step.task}: {skip.text}." for step, skip in skipped)
    for step in steps:
        if step.stage == "preflight" and not step.skip:
            yield f"{step.task}: {preflight_result(step, digests)}"


def preflight_result(step: Step, digests: Digests) -> str:
    """What a preflight that is still fresh has found: warnings, and the largest profile's memory."""
    receipt = Receipt.read(step.receipt)
    exists = all(path.is_file() for path in step.inputs.values())
    if receipt is None or not exists or not decide(step, digests).fresh:
        return f"not up to date; run doit {step.task}"
    try:
        peak = max(corner["peak_mib"] for profile in receipt.results["memory"] for corner in profile.values())
        found = "; ".join(receipt.results["warnings"]) or "no problems found"
    except (AttributeError, KeyError, TypeError, ValueError):  # results do not count for freshness
        return f"the results in its receipt are damaged; run doit -a {step.task}"
    return f"{found}; activations take about {peak:,.0f} MiB at most"


def _devices() -> Iterator[str]:
    found = gpus()
    if not found:
        yield _row("GPU", "none")
    for gpu in found:
        known = f"compute capability {gpu.compute_capability}, driver {gpu.driver}"
        yield _row("GPU", f"{gpu.index}: {gpu.name}, {known}")


def _engines() -> Iterator[str]:
    """Ask the heavy libraries in a process of their own; a broken installation is reported instead of raised."""
    done = subprocess.run(
        [sys.executable, "-m", "tasks.runtimes.backend_info"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        yield f"PyTorch or ONNX Runtime cannot be used: {done.stderr.strip().splitlines()[-1]}"
        return
    found = json.loads(done.stdout)
    yield _row("PyTorch runs on", found["torch"])
    yield _row("ONNX Runtime", f"providers: {', '.join(found['providers'])}")


def _row(name: str, value: str) -> str:
    return f"{name:<15} {value}"
