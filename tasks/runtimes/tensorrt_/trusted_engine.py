"""Opens plans that carry code for the host (tensorrt.version_compatible): only for files this project has just built.

TensorRT refuses them otherwise, because loading such a plan runs code that it contains.
"""

from pathlib import Path

from tasks.runtimes.tensorrt_.engine import TensorRTEngine
from tasks.runtimes.tensorrt_.engine import open_artifact as open_engine


def open_artifact(path: Path, *, device: str, threads: int, concurrency: int = 1) -> TensorRTEngine:
    """As `tasks.runtimes.tensorrt_.engine.open_artifact`, trusting the file."""
    return open_engine(path, device=device, threads=threads, concurrency=concurrency, allow_host_code=True)
