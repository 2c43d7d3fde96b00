"""What averaging large checkpoints costs beside the original way of doing it, on generated files.

    python -m tests.benchmarks.bench_average --folder build --json average.json
    python -m tests.benchmarks.bench_average --folder build --cold

Two comparisons, both sides in turns: the work alone, once Python and PyTorch are imported; and the whole command,
`doit average` with its digests, checks and receipt beside a script that loads, adds, divides and saves. It writes
MEMBERS x MEGABYTES to FOLDER, and deletes them at its end.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch

from tasks.actions import average
from tasks.job import Job, available_cores
from tests.benchmarks.full_size import full_size_yaml
from tests.benchmarks.process_tree import Cost, cost_of

LAYER_MEGABYTES = 16
MIB = 2**20
SIDES = ("original", "ours")
Rounds = dict[str, dict[str, list[Cost]]]  # comparison -> side -> costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1184, help="of each member")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="drop the files from the page cache before each run")
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--json", type=Path, help="write every cost to this file")
    parser.add_argument("--only", choices=SIDES, help="do the work of one side on files that are there")
    options = parser.parse_args()
    if options.only:
        _print_cost({"ours": _ours, "original": _original}[options.only], options.folder)
    else:
        _compare(options)


def _compare(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch).absolute()
        _write_model(folder)
        for member in range(options.members):
            _write(folder / "exp", member, options.megabytes)
        rounds: Rounds = {name: {side: [] for side in SIDES} for name in ("work alone", "whole command")}
        for _ in range(options.rounds):
            _run_round(rounds, folder, options)
        same = _same(torch.load(folder / "ours.pt", mmap=True), torch.load(folder / "original.pt", mmap=True))
    report = _report(rounds, options) | {"equal bit for bit": same}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("the two results are", "equal bit for bit" if same else "DIFFERENT")


def _run_round(rounds: Rounds, folder: Path, options: argparse.Namespace) -> None:
    for side in SIDES:
        _prepare(folder, cold=options.cold)
        whole, output = cost_of([sys.executable, "-m", __spec__.name, "--only", side, "--folder", str(folder)])
        rounds["work alone"][side].append(Cost(*json.loads(output), whole.memory))
        if side == "original":
            rounds["whole command"][side].append(whole)
    _prepare(folder, cold=options.cold)
    settings = ["model=cosyvoice2", f"model.dir={folder}", f"model.checkpoints.flow={folder / 'exp'}"]
    settings += [f"average.num={options.members}", f"artifacts={folder / 'artifacts'}"]
    rounds["whole command"]["ours"].append(cost_of([sys.executable, "-m", "doit", "average", *settings])[0])


def _prepare(folder: Path, *, cold: bool) -> None:
    """Nothing built, nothing waiting to be written, and the members in the page cache or not."""
    shutil.rmtree(folder / "artifacts", ignore_errors=True)
    os.sync()
    for path in (folder / "exp").glob("*.pt"):
        with path.open("rb", buffering=0) as file:
            if cold:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while not cold and file.read(MIB):
                pass


def _report(rounds: Rounds, options: argparse.Namespace) -> dict[str, object]:
    """Print medians and their ratios, and return all of it."""
    print(f"{options.members} x {options.megabytes} MiB, page cache {'cold' if options.cold else 'warm'}")
    print(f"{'':16}{'':10}{'wall s':>8}{'CPU s':>8}{'MB':>8}")
    ratios: dict[str, dict[str, float]] = {}
    for name, sides in rounds.items():
        medians = {side: _medians(costs) for side, costs in sides.items()}
        ratios[name] = {key: medians["ours"][key] / medians["original"][key] for key in medians["ours"]}
        for side, values in medians.items():
            print(f"{name:16}{side:10}{values['wall']:8.2f}{values['cpu']:8.2f}{values['memory'] / 1e6:8.0f}")
        print(f"{name:16}{'ratio':10}" + "".join(f"{ratio:8.2f}" for ratio in ratios[name].values()))
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": _commit(),
        "machine": {"processor": _processor(), "cores": available_cores(), "python": platform.python_version()},
        "files": {"members": options.members, "mebibytes": options.megabytes, "cold": options.cold},
        "rounds": {
            name: {side: [asdict(cost) for cost in costs] for side, costs in sides.items()}
            for name, sides in rounds.items()
        },
        "ratios of medians": ratios,
    }


def _medians(costs: list[Cost]) -> dict[str, float]:
    return {key: statistics.median(asdict(cost)[key] for cost in costs) for key in ("wall", "cpu", "memory")}


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _write_model(folder: Path) -> None:
    """What `doit average` requires of a model folder."""
    (folder / "exp").mkdir()
    (folder / "cosyvoice2.yaml").write_text(full_size_yaml("cosyvoice2"), encoding="utf-8")
    torch.save({"w": torch.ones(1)}, folder / "flow.pt")


def _write(folder: Path, member: int, megabytes: int) -> None:
    generator = torch.Generator().manual_seed(member)
    side = (LAYER_MEGABYTES * MIB // 4) ** 0.5
    shape = (int(side), int(side))
    count = megabytes // LAYER_MEGABYTES
    layers = {f"layers.{k}.weight": torch.randn(shape, generator=generator) for k in range(count)}
    torch.save(layers | {"epoch": member, "step": member}, folder / f"epoch_{member}_whole.pt")
    sidecar = f"epoch: {member}\nstep: {member}\nloss_dict: {{loss: {member}}}\n"
    (folder / f"epoch_{member}_whole.yaml").write_text(sidecar)


def _print_cost(work: Callable[[Path], None], folder: Path) -> None:
    """Wall and CPU seconds of the work in this process, as JSON."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    work(folder)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime]))


def _ours(folder: Path) -> None:
    files = {path.name: path for path in (folder / "exp").glob("epoch_*")}
    params = {"average": {"num": len(files) // 2, "val_best": True}}
    outputs = {"averaged": folder / "ours.pt"}
    average.run(Job("average:bench", "", files, outputs, params, threads=available_cores()))


def _original(folder: Path) -> None:
    """The original algorithm: whole files in memory, added up in place, divided, saved."""
    total: dict[str, torch.Tensor] = {}
    members = sorted((folder / "exp").glob("epoch_*.pt"))
    for path in members:
        state = torch.load(path, map_location="cpu")
        for name in state.keys() - {"epoch", "step"}:
            if name in total:
                total[name] += state[name]
            else:
                total[name] = state[name].clone()
    for name, tensor in total.items():
        total[name] = torch.true_divide(tensor, len(members))
    torch.save(total, folder / "original.pt")


def _same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


if __name__ == "__main__":
    main()
