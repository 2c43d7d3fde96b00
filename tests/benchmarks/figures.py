"""Measures, keeps the results in figures.json and writes FIGURES.md and README's table from them.

    python -m tests.benchmarks.figures --published COSYVOICE_CHECKOUT --published-python PYTHON
    python -m tests.benchmarks.figures --only onnx latency.cosyvoice3 --work build/benchmarks
    python -m tests.benchmarks.figures --render

Without --published, this project is measured alone. All of it takes about an hour on two cores and 15 GB of disk.
--only replaces these measurements in figures.json and leaves the others, each with the commit and the date that it is
of. The Python of the published side needs torch, onnx, onnxruntime, diffusers==0.29.0, x-transformers==2.11.24,
transformers==4.51.3, conformer==0.3.2, HyperPyYAML, einops, einx, Pillow, loguru, hydra-core, regex, rich, scipy and
tqdm, and what these need.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks import figures_file, provenance, render
from tests.benchmarks.catalogue import Measurement, chosen
from tests.benchmarks.results import read_rows
from tests.benchmarks.sides import ROOT, Published, add_published, environment, published


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_published(parser)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="a measurement or a section")
    parser.add_argument("--work", type=Path, help="keep model folders and exported files here, for the next time")
    parser.add_argument("--rounds", type=int, help="samples of each side; default: as each benchmark has it")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    options = parser.parse_args()
    try:
        measurements = [] if options.render else chosen(options.only)
    except ValueError as error:
        parser.error(str(error))
    checkout = published(options, parser)
    with tempfile.TemporaryDirectory() as scratch:
        work = (options.work or Path(scratch)).absolute()
        failed = [found.name for found in measurements if not _measured(found, work, checkout, options.rounds)]
    render.write()
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


def _measured(measurement: Measurement, work: Path, checkout: Published | None, rounds: int | None) -> bool:
    """Whether it could be measured; the others are not lost if it could not."""
    print(f"## {measurement.name}", flush=True)
    try:
        result = _result(measurement, work, checkout if measurement.has_published_side else None, rounds)
    except (subprocess.CalledProcessError, ValueError) as error:
        print(f"{measurement.name}: {error}", file=sys.stderr, flush=True)
        return False
    figures_file.put(measurement.name, result)
    return True


def _result(measurement: Measurement, work: Path, checkout: Published | None, rounds: int | None) -> dict[str, Any]:
    for words in measurement.prepare:
        _run_module(*(word.format(work=work) for word in words))
    found = provenance.of_this_run(checkout)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        words = [word.format(work=work) for word in measurement.words]
        words += checkout.words() if checkout else []
        words += ["--rounds", str(rounds)] if rounds and measurement.has_rounds else []
        _run_module(f"tests.benchmarks.{measurement.module}", *words, "--json", str(file))
        rows = read_rows(file)
    return found | {"load": [found["load"], provenance.load()], "rows": [row.to_plain() for row in rows]}


def _run_module(module: str, *words: str) -> None:
    command = [sys.executable, "-m", module, *words]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True)


if __name__ == "__main__":
    main()
