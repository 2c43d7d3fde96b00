"""Opens plans that contain host code (tensorrt.version_compatible): only for files that this project has just built.

TensorRT rejects them otherwise, because loading such a plan runs the code in it.
"""

from pathlib import Path

from tasks.runtimes.tensorrt_.engine import TensorRTEngine
from tasks.runtimes.tensorrt_.engine import open_artifact as open_engine


def open_artifact(path: Path, *, device: str, threads: int, concurrency: int = 1) -> TensorRTEngine:
    """As `tasks.runtimes.tensorrt_.engine.open_artifact`, trusting the file."""
    return open_engine(path, device=device, threads=threads, concurrency=concurrency, allow_host_code=True)
