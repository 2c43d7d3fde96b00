"""`doit -n 2 export_all` and `doit export_all` in turns, each from nothing.

    python -m tests.benchmarks.bench_side_by_side cosyvoice2 FOLDER --parts flow

FOLDER is a model folder (tests.benchmarks.full_size writes one); with --parts, only these weights of it. Two steps at
once cannot take less than half of the CPU time of one after the other.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tests.benchmarks.measure import measure
from tests.benchmarks.results import OURS, Row, write_rows
from tests.benchmarks.sides import MODELS, environment, only_parts, ours
from tests.benchmarks.table import table
from tests.benchmarks.turns import Sample, in_turns

SIDES = {"one step at a time": 1, OURS: 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", help="without it, all that the folder has")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the samples to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder.absolute()
        folder = only_parts(options.parts, folder, Path(scratch)) if options.parts else folder
        sides = {
            side: partial(_cost, options.model, folder, Path(scratch) / "artifacts", steps=steps)
            for side, steps in SIDES.items()
        }
        name = ", ".join((MODELS[options.model], *(options.parts or ())))
        rows = [Row(name, in_turns(sides, rounds=options.rounds))]
    print(table(rows))
    if options.json:
        write_rows(rows, options.json)


def _cost(model: str, folder: Path, artifacts: Path, *, steps: int) -> Sample:
    shutil.rmtree(artifacts, ignore_errors=True)
    words: Sequence[object] = ("-n", steps, "export_all", f"model={model}", f"model.dir={folder}")
    command = ours(*words, f"artifacts={artifacts}")
    return asdict(measure(command, log=artifacts.with_suffix(".log"), env=environment()))


if __name__ == "__main__":
    main()
