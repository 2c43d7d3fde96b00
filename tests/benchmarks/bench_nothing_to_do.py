"""What a run with nothing to do costs, beside starting Python with doit and Hydra and composing the settings.

    doit export_all && python -m tests.benchmarks.bench_nothing_to_do [SETTING...]

Runs both in turns and prints medians and their ratio. Not part of the test run: a busy machine would fail it.
"""

import statistics
import subprocess
import sys
import time

ROUNDS = 10
BASELINE = (
    "import sys\n"
    "from doit.doit_cmd import DoitMain\n"
    "from pathlib import Path\n"
    "from tasks.settings.compose import load\n"
    "load(sys.argv[1:], workdir=Path.cwd())\n"
)


def main() -> None:
    settings = sys.argv[1:]
    commands = {
        "python, doit, Hydra and composing": [sys.executable, "-c", BASELINE, *settings],
        "doit export_all with nothing to do": [sys.executable, "-m", "doit", "export_all", *settings],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds[name].append(time.perf_counter() - started)
            if "build " in done.stdout:
                sys.exit("something was stale: run `doit export_all` first")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name:<36} {median * 1000:6.0f} ms")
    baseline, ours = medians.values()
    print(f"{'ratio':<36} {ours / baseline:6.2f}")


if __name__ == "__main__":
    main()
