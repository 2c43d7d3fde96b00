"""What averaging large checkpoints costs beside the published way of doing it, on generated files.

    python -m tests.benchmarks.bench_average --folder build --json average.json
    python -m tests.benchmarks.bench_average --folder build --cold

Two comparisons, both sides in turns: the work alone, once Python and PyTorch are imported; and the whole command,
`doit average` with its digests, checks and receipt beside a script that loads, adds, divides and saves. It writes
MEMBERS x MEGABYTES to FOLDER, and deletes them at its end.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from tasks.actions import average
from tasks.job import Job, available_cores
from tests.benchmarks.full_size import full_size_yaml
from tests.benchmarks.measure import Cost, measure
from tests.benchmarks.results import OURS, PUBLISHED, QUANTITIES, Row, write_rows

LAYER_MEGABYTES = 16
MIB = 2**20
SIDES = (PUBLISHED, OURS)
ALONE, WHOLE = "the work alone", "the whole command"
Rounds = dict[str, dict[str, list[Cost]]]  # comparison -> side -> costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1184, help="of each member")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="drop the files from the page cache before each run")
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    parser.add_argument("--only", choices=SIDES, help="do the work of one side on files that are there")
    options = parser.parse_args()
    if options.only:
        _print_cost({OURS: _ours, PUBLISHED: _published}[options.only], options.folder)
    else:
        _compare(options)


def _compare(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch).absolute()
        _write_model(folder)
        for member in range(options.members):
            _write(folder / "exp", member, options.megabytes)
        rounds: Rounds = {name: {side: [] for side in SIDES} for name in (ALONE, WHOLE)}
        for _ in range(options.rounds):
            _run_round(rounds, folder, options)
        same = _same(*(torch.load(folder / f"{side}.pt", mmap=True) for side in SIDES))
    rows = [Row(f"{name}, {'cold' if options.cold else 'warm'}", _samples(sides)) for name, sides in rounds.items()]
    for row in rows:
        print(row.name, {side: {key: row.median(side, key) for key in row.sides[side]} for side in SIDES}, row.ratios())
    if not same:
        sys.exit("the two results differ")
    if options.json:
        write_rows(rows, options.json)


def _run_round(rounds: Rounds, folder: Path, options: argparse.Namespace) -> None:
    log = folder / "log"
    for side in SIDES:
        _prepare(folder, cold=options.cold)
        whole = measure([sys.executable, "-m", __spec__.name, "--only", side, "--folder", folder], log=log)
        rounds[ALONE][side].append(Cost(*json.loads(log.read_text()), whole.peak))
        if side == PUBLISHED:
            rounds[WHOLE][side].append(whole)
    _prepare(folder, cold=options.cold)
    settings = ["model=cosyvoice2", f"model.dir={folder}", f"model.checkpoints.flow={folder / 'exp'}"]
    settings += [f"average.num={options.members}", f"artifacts={folder / 'artifacts'}"]
    rounds[WHOLE][OURS].append(measure([sys.executable, "-m", "doit", "average", *settings], log=log))


def _samples(sides: dict[str, list[Cost]]) -> dict[str, dict[str, list[float]]]:
    return {
        side: {key: [asdict(cost)[key] for cost in costs] for key in QUANTITIES if key in asdict(costs[0])}
        for side, costs in sides.items()
    }


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
    outputs = {"averaged": folder / f"{OURS}.pt"}
    average.run(Job("average:bench", "", files, outputs, params, threads=available_cores()))


def _published(folder: Path) -> None:
    """The published algorithm: whole files in memory, added up in place, divided, saved."""
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
    torch.save(total, folder / f"{PUBLISHED}.pt")


def _same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


if __name__ == "__main__":
    main()
