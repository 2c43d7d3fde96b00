"""A small plan on a simulated machine: loading it, inputs for it, and the outputs to expect."""

import onnxruntime
import torch

from tasks.runtimes.tensorrt_.engine import load_engine
from tasks.runtimes.tensorrt_.interface import label
from tests.support.onnx_samples import CHANNELS, component, small_estimator
from tests.support.tensorrt_simulation import write_plan

PROFILE = {"x": [[2, CHANNELS, 4], [2, CHANNELS, 50], [2, CHANNELS, 300]], "mask": [[2, 1, 4], [2, 1, 50], [2, 1, 300]]}


def load_small_plan(machine, streams, tmp_path, *, precision="fp32", profiles=(PROFILE,), concurrency=1, **head):
    axes = {name: tensor["shape"] for name, tensor in component()["inputs"].items()}
    head = {"name": label("small.estimator", axes)} | head
    path = write_plan(machine, tmp_path / "a.plan", small_estimator(precision=precision), profiles=[*profiles], **head)
    return load_engine(path, trt=machine.trt, streams=streams, concurrency=concurrency)


def plan_inputs(frames: int = 20) -> dict[str, torch.Tensor]:
    x = torch.randn(2, CHANNELS, frames, generator=torch.Generator().manual_seed(frames))
    return {"x": x, "mask": torch.ones(2, 1, frames), "t": torch.tensor([0.3, 0.3])}


def expected_output(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    session = onnxruntime.InferenceSession(small_estimator().SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0])
