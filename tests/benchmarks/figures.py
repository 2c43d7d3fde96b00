"""Runs the measurements and writes their output to FIGURES.md, the one place where figures are kept.

    python -m tests.benchmarks.figures

It takes about ten minutes on two idle cores. Each figure is printed by the command above it, which can be run alone.
"""

import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

FILE = Path(__file__).with_name("FIGURES.md")
MODEL = "cosyvoice2"
INTRODUCTION = """# Figures

Written by `python -m tests.benchmarks.figures`; do not edit. Sizes are those of the original release, weights are random,
precision is fp32 unless a line says otherwise. SNR and the worst element compare an artifact with the eager module.
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        demo = f"artifacts={folder / 'demo'}"
        sections = [
            INTRODUCTION,
            _machine(),
            _section("The demo, training included", _timed_demo, demo),
            _section("A run with nothing to do", _output, "tests.benchmarks.bench_nothing_to_do", demo),
            _section("Averaging", _output, "tests.benchmarks.bench_average", "--folder", scratch),
            _section("A model folder for the next figures", _output, "tests.benchmarks.full_size", MODEL, folder, "--parts", "flow"),
            _section("CosyVoice 2's flow, step by step", _output, "tests.benchmarks.bench_export", MODEL, folder),
        ]  # fmt: skip
    FILE.write_text("\n".join(sections), encoding="utf-8")


def _machine() -> str:
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    return f"{datetime.now(UTC):%Y-%m-%d}, {model.partition(':')[2].strip()}, Python {platform.python_version()}.\n"


def _section(title: str, measure: Callable[..., str], *words: object) -> str:
    print(title, flush=True)
    return f"## {title}\n\n{measure(*words)}\n"


def _output(module: str, *words: object) -> str:
    done = subprocess.run([sys.executable, "-m", module, *map(str, words)], capture_output=True, text=True, check=True)
    return f"```\n{done.stdout.strip()}\n```"


def _timed_demo(artifacts: str) -> str:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "doit", "export_all", artifacts], capture_output=True, check=True)
    return f"`doit export_all`: {time.perf_counter() - started:.0f} s"


if __name__ == "__main__":
    main()
