"""What `doit export_all` costs from nothing, and each of its steps, by the receipts: seconds, memory, size, agreement.

    python -m tests.benchmarks.bench_export demo
    python -m tests.benchmarks.bench_export cosyvoice model.dir=build/cosyvoice precision=fp32,fp16

Everything is built in a folder of its own. Further words go to doit as they are.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import measure
from tests.benchmarks.results import OURS, Row, write_rows
from tests.benchmarks.sides import environment, ours
from tests.benchmarks.table import table

RESULTS = {"nodes": "nodes", "max_abs": "max_abs", "min_snr_db": "snr"}  # names in a receipt and here


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--artifacts", type=Path, help="keep the artifacts in this new folder")
    parser.add_argument("--json", type=Path, help="write the samples to this file")
    options, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        artifacts = (options.artifacts or Path(scratch) / "artifacts").absolute()
        if artifacts.exists():
            parser.error(f"{artifacts} exists: what is in it would not be built again")
        rows = list(_rows(options.model, artifacts, words, log=Path(scratch) / "log"))
    print(table(rows))
    if options.json:
        write_rows(rows, options.json)


def _rows(model: str, artifacts: Path, words: list[str], *, log: Path) -> Iterator[Row]:
    command = ours("export_all", f"model={model}", f"artifacts={artifacts}", *words)
    cost = measure(command, log=log, env=environment())
    for receipt in _receipts(artifacts / model):
        yield Row(receipt["step"], {OURS: {name: [value] for name, value in _sample(receipt).items()}})
    yield Row("doit export_all", {OURS: {name: [value] for name, value in asdict(cost).items()}})


def _receipts(folder: Path) -> Iterator[dict[str, Any]]:
    """Receipts in the order in which the steps ended."""
    for path in sorted(folder.rglob("*.receipt.json"), key=lambda path: path.stat().st_mtime):
        yield json.loads(path.read_text())


def _sample(receipt: dict[str, Any]) -> dict[str, float]:
    execution, results = receipt["execution"], receipt["results"]
    sample = {"wall": execution["seconds"], "peak": execution["peak_memory"]}
    sample["size"] = sum(output["size"] for output in receipt["outputs"].values())
    return sample | {here: float(results[name]) for name, here in RESULTS.items() if name in results}


if __name__ == "__main__":
    main()
