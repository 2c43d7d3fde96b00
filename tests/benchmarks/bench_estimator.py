"""Latency of an estimator: this project's ONNX file, the published script's, and the module itself, taken in turns.

    python -m tests.benchmarks.bench_estimator cosyvoice3 FOLDER --output build --published CHECKOUT ...

One process, fp32, a batch of two, the whole mask. The files are exported first where OUTPUT does not have them. Set
OMP_WAIT_POLICY=passive, or the threads that PyTorch leaves spinning take the cores that ONNX Runtime needs next: that
alone can make an export look slower than the module.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from tasks.models.cosyvoice.folder import load_component
from tasks.plain_data import plain
from tasks.runtimes.eager import PyTorchModule
from tasks.runtimes.onnxruntime_.session import open_artifact
from tasks.settings.component import ComponentSpec
from tasks.settings.compose import load
from tests.benchmarks.results import OURS, PUBLISHED, Row, Samples, write_rows
from tests.benchmarks.sides import MODELS, Command, Published, add_published, environment, only_parts, ours, published
from tests.benchmarks.table import table
from tests.benchmarks.turns import Sample, in_turns

ESTIMATOR = "flow.decoder.estimator.fp32.onnx"  # on both sides
Call = Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("folder", type=Path)
    add_published(parser)
    parser.add_argument("--output", type=Path, required=True, help="for the exported files")
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 500, 1500])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the samples to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    files = _exported(options.model, options.folder.absolute(), options.output.absolute(), published(options, parser))
    calls: dict[str, Call] = {
        side: open_artifact(file, device="cpu", threads=options.threads) for side, file in files.items()
    }
    calls["eager PyTorch"] = _eager(options.model, options.folder)
    rows = [
        Row(f"{MODELS[options.model]}, {frames} frames", _latencies(calls, _inputs(frames), rounds=options.rounds))
        for frames in options.frames
    ]
    print(table(rows))
    if options.json:
        write_rows(rows, options.json)


def _exported(model: str, folder: Path, output: Path, checkout: Published | None) -> dict[str, Path]:
    settings = (f"model={model}", f"model.dir={folder}", f"artifacts={output / OURS}")
    _run(ours(f"export_onnx:{model}/flow.decoder.estimator.fp32", *settings))
    files = {OURS: output / OURS / model / ESTIMATOR}
    if checkout is not None:
        files[PUBLISHED] = output / PUBLISHED / model / ESTIMATOR
        if not files[PUBLISHED].is_file():
            _export_published(checkout, folder, files[PUBLISHED])
    return files


def _export_published(checkout: Published, folder: Path, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:  # a file that is half written is not used later
        _run(checkout.command("export_onnx", only_parts(["flow"], folder, Path(scratch)), Path(scratch)))
        (Path(scratch) / ESTIMATOR).rename(file)


def _run(command: Command) -> None:
    subprocess.run(command, env=environment(), check=True)


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


def _latencies(calls: Mapping[str, Call], inputs: dict[str, Tensor], *, rounds: int) -> Mapping[str, Samples]:
    """Samples of each side, after a first call whose results have to agree."""
    expected, *others = [call(inputs)[0] for call in calls.values()]
    for other in others:
        torch.testing.assert_close(other, expected, rtol=1e-2, atol=1e-4)  # as the published script checks
    return in_turns({side: lambda call=call: _seconds(call, inputs) for side, call in calls.items()}, rounds=rounds)


def _seconds(call: Call, inputs: dict[str, Tensor]) -> Sample:
    cpu, wall = time.process_time(), time.perf_counter()
    call(inputs)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    main()
