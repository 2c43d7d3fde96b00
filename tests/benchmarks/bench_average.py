"""Wall time and peak memory of averaging large checkpoints, beside the original way of doing it, on generated files.

    python -m tests.benchmarks.bench_average --members 5 --megabytes 1200 --folder build

Not part of the test run: it writes MEMBERS x MEGABYTES to FOLDER, and deletes them at its end.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tasks.actions import average
from tasks.job import Job

LAYER_MEGABYTES = 16
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1200)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--only", choices=["ours", "original"], help="run one of them on files that are there")
    options = parser.parse_args()
    if options.only:
        _measure(options.only, options.folder)
    else:
        _side_by_side(options)


def _side_by_side(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for member in range(options.members):
            _write(Path(folder), member, options.megabytes)
        for _ in range(2):  # the second round reads from the page cache
            for way in ("original", "ours"):
                subprocess.run([sys.executable, "-m", __spec__.name, "--only", way, "--folder", folder], check=True)
        same = _same(torch.load(f"{folder}/ours.pt", mmap=True), torch.load(f"{folder}/original.pt", mmap=True))
    print("the two results are", "equal bit for bit" if same else "DIFFERENT")


def _write(folder: Path, member: int, megabytes: int) -> None:
    generator = torch.Generator().manual_seed(member)
    side = (LAYER_MEGABYTES * MIB // 4) ** 0.5
    shape = (int(side), int(side))
    count = megabytes // LAYER_MEGABYTES
    layers = {f"layers.{k}.weight": torch.randn(shape, generator=generator) for k in range(count)}
    torch.save(layers | {"epoch": member, "step": member}, folder / f"epoch_{member}_whole.pt")
    sidecar = f"epoch: {member}\nstep: {member}\nloss_dict: {{loss: {member}}}\n"
    (folder / f"epoch_{member}_whole.yaml").write_text(sidecar)


def _measure(way: str, folder: Path) -> None:
    before = _peak()
    start = time.perf_counter()
    {"ours": _ours, "original": _original}[way](folder)
    seconds = time.perf_counter() - start
    print(f"{way:10} {seconds:6.1f} s, peak {_peak():6.0f} MiB ({before:.0f} MiB of it before it began)", flush=True)


def _peak() -> float:
    """MiB. From /proc: the peak that getrusage reports begins with that of the parent process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def _ours(folder: Path) -> None:
    files = {path.name: path for path in folder.glob("epoch_*")}
    params = {"average": {"num": len(files) // 2, "val_best": True}}
    average.run(Job("average:bench", "", files, {"averaged": folder / "ours.pt"}, params))


def _original(folder: Path) -> None:
    """The original algorithm: whole files in memory, added up in place, divided, saved."""
    total: dict[str, torch.Tensor] = {}
    members = sorted(folder.glob("epoch_*.pt"))
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
