"""Latency of an exported estimator under ONNX Runtime beside the module itself, taken in turns in one process.

    python -m tests.benchmarks.bench_estimator cosyvoice3 build/cosyvoice3 build/flow.decoder.estimator.fp32.onnx

Turns, because a machine that others use is faster at one minute and slower at the next. Set OMP_WAIT_POLICY=passive, or
the threads that PyTorch leaves spinning take the cores that ONNX Runtime needs next: that alone can make an export look
slower than the module.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tasks.models.cosyvoice.folder import load_component
from tasks.plain_data import plain
from tasks.runtimes.eager import PyTorchModule
from tasks.runtimes.onnxruntime_.session import open_artifact
from tasks.settings.component import ComponentSpec
from tasks.settings.compose import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    calls = {
        "ONNX Runtime": open_artifact(options.artifact, device="cpu", threads=options.threads),
        "eager PyTorch": _eager(options.model, options.folder),
    }
    inputs = _inputs(options.frames)
    for call in calls.values():
        call(inputs)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.rounds):
        for name, call in calls.items():
            times[name].append(_seconds(lambda call=call: call(inputs)))
    for name, taken in times.items():
        print(f"{name:15} median {statistics.median(taken) * 1e3:7.0f} ms, fastest {min(taken) * 1e3:7.0f} ms")


def _eager(model: str, folder: Path) -> PyTorchModule:
    (config,) = load([f"model={model}", f"model.dir={folder}"], workdir=Path.cwd())
    component = ComponentSpec.from_params(plain(config.model.components["flow_decoder_estimator"]))
    module = load_component(component, config=folder / config.model.config, weights=folder / "flow.pt")
    return PyTorchModule(module, options=component.options, device="cpu")


def _inputs(frames: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    x, mu, cond = torch.randn(3, 2, 80, frames)
    mask = torch.ones(2, 1, frames)
    return {"x": x, "mask": mask, "mu": mu, "t": torch.tensor([0.3, 0.3]), "spks": torch.randn(2, 80), "cond": cond}


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
