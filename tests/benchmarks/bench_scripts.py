"""Whole commands in turns: an export script of a CosyVoice checkout, and what does the same work here.

    python -m tests.benchmarks.bench_scripts onnx cosyvoice2 FOLDER --published CHECKOUT --published-python PYTHON

FOLDER is a model folder (tests.benchmarks.full_size writes one). Each side starts without artifacts in every round.
ONNX: export and check of the estimator, which is all that the script exports. TorchScript: export in fp32 and fp16;
the script checks nothing, so verification is left out here as well. The script loads the whole model; what it would
cost with only the parts that it needs is measured as well.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.measure import measure
from tests.benchmarks.results import OURS, PUBLISHED, Row, write_rows
from tests.benchmarks.sides import MODELS, Command, add_published, environment, only_parts, ours, published
from tests.benchmarks.table import table
from tests.benchmarks.turns import Sample, in_turns


@dataclass(frozen=True)
class Work:
    script: str
    task: str  # what doit is asked for; it runs what that needs as well
    parts: Mapping[str, tuple[str, ...]]  # those that the script exports from, by model
    settings: tuple[str, ...] = ()


WORKS = {
    "onnx": Work("export_onnx", "verify_onnx:{model}/flow.decoder.estimator.fp32", dict.fromkeys(MODELS, ("flow",))),
    "torchscript": Work(
        "export_jit",
        "export_jit",
        {"cosyvoice": ("llm", "flow"), "cosyvoice2": ("flow",)},
        settings=("precision=fp32,fp16",),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=sorted(WORKS))
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("folder", type=Path)
    add_published(parser)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the samples to this file")
    options = parser.parse_args()
    work, checkout = WORKS[options.work], published(options, parser)
    if options.model not in work.parts:
        parser.error(f"{work.script} does not know {options.model}")
    with tempfile.TemporaryDirectory() as scratch:
        output, folder = Path(scratch), options.folder.absolute()
        sides = {OURS: _from_nothing(_ours(work, options.model, folder, output / OURS), output / OURS)}
        if checkout is not None:
            needed = only_parts(work.parts[options.model], folder, output)
            for side, parts in {PUBLISHED: folder, f"{PUBLISHED}, needed parts": needed}.items():
                command = checkout.command(work.script, parts, output / PUBLISHED)
                sides[side] = _from_nothing(command, output / PUBLISHED)
        row = Row(MODELS[options.model], in_turns(sides, rounds=options.rounds))
    print(table([row]))
    if options.json:
        write_rows([row], options.json)


def _ours(work: Work, model: str, folder: Path, artifacts: Path) -> Command:
    settings = (f"model={model}", f"model.dir={folder}", f"artifacts={artifacts}", *work.settings)
    return ours(work.task.format(model=model), *settings)


def _from_nothing(command: Command, folder: Path) -> Callable[[], Sample]:
    """Runs the command that writes into a folder, without what an earlier round left in it."""

    def run() -> Sample:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return asdict(measure(command, log=folder / "benchmark.log", env=environment()))

    return run


if __name__ == "__main__":
    main()
