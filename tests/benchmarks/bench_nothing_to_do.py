"""What a command costs when there is nothing to do, beside starting Python, doit and Hydra and composing the settings.

    python -m tests.benchmarks.bench_nothing_to_do [--steps 10 30 300] [--rounds 10] [--json FILE]
        [--against CHECKOUT] [--dvc EXECUTABLE]

Runs everything in turns and prints medians. The settings are those of a model with many components in a copy of this
checkout; `--against` compares with a copy of another one. Where DVC is on the path or named by `--dvc`, `dvc repro` is
run on ten stages that have files of the same number and size. Not part of the test run: a busy machine would fail it.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks import write_fresh_steps
from tests.benchmarks.results import OURS, Row, Samples, write_rows
from tests.support.project import ROOT, Project

STALE = re.compile("^(build|stale|depends|FAIL) ", re.MULTILINE)
STEPS_OF_A_COMPONENT = 4  # export_jit, verify_jit, export_onnx, verify_onnx
STEPS_OF_THE_PART = 2  # train, average
DVC_STAGES = 10

MODEL = """\
defaults:
{components}
  - _self_
name: many
config: ${{project:tasks/models/demo/cosyvoice2.yaml}}
config_format: hyperpyyaml
parts: {{flow: flow.pt}}
training:
  part: flow
  loader: tasks.models.cosyvoice.folder:build_part
  data: tasks.models.demo.data:batches
axes:
  utterances: {{min: 1, opt: 1, max: 2}}
  tokens: {{min: 4, opt: 100, max: 500}}
components:
{names}
"""
COMPONENT = (
    "  c{0}:\n    name: flow.encoder{0}\n    outputs: {{ys: [utterances, tokens, width]}}\n    named_sizes: [width]"
)

FLOOR = """
import sys
from doit.doit_cmd import DoitMain
from tasks.settings.hydra_compose import composed
composed(sys.argv[1:])
"""
DOIT_ALONE = "from doit.doit_cmd import DoitMain"
COMMANDS = {
    "export_all": ["export_all"],
    "list": ["list"],
    "list --all": ["list", "--all"],
    "why": ["why"],
}


class Command(NamedTuple):
    """What is timed."""

    words: Sequence[str]
    folder: Path
    environment: Mapping[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 30, 300])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    parser.add_argument("--dvc", metavar="EXECUTABLE", default=shutil.which("dvc"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for steps in options.steps:
            commands = _commands(steps, Path(scratch, str(steps)), options.against, options.dvc)
            samples = _samples(commands, options.rounds)
            _print(steps, samples)
            rows += _rows(steps, samples, options.against)
    if options.json:
        write_rows(rows, options.json)


def _commands(steps: int, scratch: Path, against: Path | None, dvc: str | None) -> dict[str, Command]:
    here = _fresh_copy(ROOT, scratch / "here", steps)
    settings = _settings(steps)
    environment = os.environ | {"PYTHONPATH": str(here), "XDG_CACHE_HOME": str(scratch / "cache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # nothing is compiled in a usual run
    commands = {
        "Python and doit": Command([sys.executable, "-c", DOIT_ALONE], here, environment),
        "floor": Command([sys.executable, "-c", FLOOR, *settings], here, environment),
    }
    for name, words in COMMANDS.items():
        commands[name] = Command([sys.executable, "-m", "doit", *words, *settings], here, environment)
    if against:
        other = _fresh_copy(against, scratch / "other", steps)
        for name, words in COMMANDS.items():
            full = [sys.executable, "-m", "doit", *words, *settings]
            commands[f"{name}, {against.name}"] = Command(full, other, environment | {"PYTHONPATH": str(other)})
    if dvc and steps == DVC_STAGES:
        commands["dvc repro"] = Command([dvc, "repro", "--quiet"], _dvc_project(dvc, here, scratch / "dvc"), os.environ)
    return commands


def _settings(steps: int) -> list[str]:
    precisions = "fp32" if steps <= 100 else "fp32,fp16,bf16"
    return ["model=many", f"precision={precisions}"]


def _fresh_copy(checkout: Path, copy: Path, steps: int) -> Path:
    """A copy of a checkout with a model of about as many steps, all of them fresh."""
    project = Project.copy_to(copy, of=checkout)
    precisions = 1 if steps <= 100 else 3
    count = max(1, round((steps - STEPS_OF_THE_PART) / STEPS_OF_A_COMPONENT / precisions))
    lines = [f"  - _component/flow_encoder@components.c{number}" for number in range(count)]
    names = [COMPONENT.format(number) for number in range(count)]
    (copy / "conf/model/many.yaml").write_text(MODEL.format(components="\n".join(lines), names="\n".join(names)))
    result = project.doit("-f", write_fresh_steps.__file__, "-d", str(copy), *_settings(steps))
    if result.code:
        sys.exit(result.out + result.err)
    return copy


def _dvc_project(dvc: str, project: Path, folder: Path) -> Path:
    """A chain of stages, each with as many files as a step of ours, of the same sizes."""
    folder.mkdir()
    source = project / "tasks/models/demo/cosyvoice2.yaml"
    shutil.copy(source, folder / "config.yaml")
    (folder / "data0").write_bytes(write_fresh_steps.CONTENT)
    stages = "\n".join(
        f"  stage{n}:\n    cmd: cp data{n} data{n + 1}\n    deps: [config.yaml, data{n}]\n    outs: [data{n + 1}]"
        for n in range(DVC_STAGES)
    )
    (folder / "dvc.yaml").write_text(f"stages:\n{stages}\n")
    for words in (["init", "--no-scm", "--quiet"], ["config", "core.analytics", "false"], ["repro", "--quiet"]):
        subprocess.run([dvc, *words], cwd=folder, check=True, capture_output=True)
    return folder


def _samples(commands: Mapping[str, Command], rounds: int) -> dict[str, Samples]:
    """Wall time and CPU time in seconds; every round runs each command once, the first two are not counted."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    time.sleep(6)  # files that were written just now are not remembered
    for _ in range(rounds + 2):
        for name, command in commands.items():
            taken[name].append(_run(command))
    return {
        name: {"wall": [wall for wall, _ in times[2:]], "cpu": [cpu for _, cpu in times[2:]]}
        for name, times in taken.items()
    }


def _run(command: Command) -> tuple[float, float]:
    started = time.perf_counter()
    with subprocess.Popen(
        command.words, cwd=command.folder, env=command.environment, stdout=subprocess.PIPE, text=True
    ) as process:
        out = process.stdout.read() if process.stdout else ""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    if process.returncode or STALE.search(out):
        sys.exit(f"{' '.join(command.words)}: not everything is fresh\n{out}")
    return wall, used.ru_utime + used.ru_stime


def _print(steps: int, samples: Mapping[str, Samples]) -> None:
    floor = statistics.median(samples["floor"]["wall"])
    print(f"{steps} steps{'':<22} wall ms   CPU ms   wall, of the floor")
    for name, taken in samples.items():
        wall, cpu = statistics.median(taken["wall"]), statistics.median(taken["cpu"])
        print(f"{name:<30} {wall * 1000:7.0f} {cpu * 1000:8.0f} {wall / floor:10.2f}")
    print(flush=True)


def _rows(steps: int, samples: Mapping[str, Samples], against: Path | None) -> list[Row]:
    """A row for each command, beside what starting and composing takes, the other checkout, and DVC."""
    rows = []
    for name in COMMANDS:
        sides = {OURS: samples[name], "floor": samples["floor"]}
        if against:
            sides[against.name] = samples[f"{name}, {against.name}"]
        if name == "export_all" and "dvc repro" in samples:
            sides["dvc repro"] = samples["dvc repro"]
        rows.append(Row(f"doit {name}, {steps} steps", sides))
    return rows


if __name__ == "__main__":
    main()
