"""The TensorRT runtime on the simulated machine, found by name as a step finds its runtime."""

from pathlib import Path

from tasks.runtimes.tensorrt_.engine import TensorRTEngine, load_engine
from tests.support.fake_streams import FakeStreams
from tests.support.tensorrt_simulation import Machine

machine = Machine()


def open_artifact(path: Path, *, device: str, threads: int, concurrency: int = 1) -> TensorRTEngine:
    return load_engine(path, trt=machine.trt, streams=FakeStreams(may_synchronize=True), concurrency=concurrency)
