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

Written by `python -m tests.benchmarks.figures`; do not edit. Sizes are those of the original release, weights
are random, precision is fp32 unless a line has another. SNR and worst element are against the eager module.
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        demo = f"artifacts={folder / 'demo'}"
        measurements: list[tuple[str, Callable[..., str], tuple[object, ...]]] = [
            ("The demo, training included", _timed_demo, (demo,)),
            ("A run with nothing to do", _output, ("bench_nothing_to_do",)),
            ("Averaging five checkpoints", _output, ("bench_average", "--folder", folder)),
            ("CosyVoice 2's flow: its weights", _output, ("full_size", MODEL, folder / MODEL, "--parts", "flow")),
            ("CosyVoice 2's flow: every step", _output, ("bench_export", MODEL, folder / MODEL)),
        ]
        sections = [INTRODUCTION, _machine()]
        for title, measure, words in measurements:
            print(title, flush=True)
            sections.append(f"## {title}\n\n{measure(*words)}\n")
    FILE.write_text("\n".join(sections).replace(scratch, "FOLDER"), encoding="utf-8")


def _machine() -> str:
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    return f"{datetime.now(UTC):%Y-%m-%d}, {model.partition(':')[2].strip()}, Python {platform.python_version()}.\n"


def _output(module: str, *words: object) -> str:
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return f"```\n$ python {' '.join(command[1:])}\n{done.stdout.strip()}\n```"


def _timed_demo(artifacts: str) -> str:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "doit", "export_all", artifacts], capture_output=True, check=True)
    return f"`doit export_all`: {time.perf_counter() - started:.0f} s"


if __name__ == "__main__":
    main()
