"""What each step of `doit export_all` costs on a model folder, from the receipts: seconds, memory, size, agreement.

    python -m tests.benchmarks.full_size cosyvoice build/cosyvoice
    python -m tests.benchmarks.bench_export cosyvoice build/cosyvoice precision=fp32,fp16

Everything is built in a folder of its own. Further words go to doit as they are.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ESTIMATOR = "flow.decoder.estimator.fp32.onnx"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--artifacts", type=Path, help="keep the artifacts in this new folder")
    options, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        artifacts = (options.artifacts or Path(scratch) / "artifacts").absolute()
        if artifacts.exists():
            parser.error(f"{artifacts} exists: what is in it would not be built again")
        code = _exported(options.model, options.folder, artifacts, words)
        _print_table(artifacts / options.model)
        if (estimator := artifacts / options.model / ESTIMATOR).exists():
            _run("tests.benchmarks.bench_estimator", options.model, options.folder, estimator)
    sys.exit(code)


def _exported(model: str, folder: Path, artifacts: Path, words: list[str]) -> int:
    started = time.perf_counter()
    code = _run("doit", "export_all", f"model={model}", f"model.dir={folder}", f"artifacts={artifacts}", *words)
    print(f"\ndoit export_all: {time.perf_counter() - started:.0f} s, exit code {code}\n", flush=True)
    return code


def _run(module: str, *words: object) -> int:
    return subprocess.run([sys.executable, "-m", module, *map(str, words)], check=False).returncode


def _print_table(folder: Path) -> None:
    print(f"{'step':62}{'seconds':>8}{'peak MB':>9}{'MB':>9}{'nodes':>7}{'max abs':>10}{'SNR dB':>8}")
    for receipt in _receipts(folder):
        results, execution = receipt["results"], receipt["execution"]
        size = sum(output["size"] for output in receipt["outputs"].values())
        cells = [f"{execution['seconds']:8.1f}", f"{execution['peak_memory'] / 1e6:9,.0f}", f"{size / 1e6:9,.1f}"]
        cells += [
            f"{results.get('nodes', ''):>7}",
            f"{results.get('max_abs', ''):>10}",
            f"{results.get('min_snr_db', ''):>8}",
        ]
        print(f"{receipt['step']:62}{''.join(cells)}", flush=True)


def _receipts(folder: Path) -> Iterator[dict[str, Any]]:
    """Receipts in the order in which the steps ended."""
    for path in sorted(folder.rglob("*.receipt.json"), key=lambda path: path.stat().st_mtime):
        yield json.loads(path.read_text())


if __name__ == "__main__":
    main()
