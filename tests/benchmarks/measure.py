"""What a command costs with every process that it starts: wall time, CPU time and the peak of their memory.

    python -m tests.benchmarks.measure COST.json COMMAND...

The command is run from a process of its own, which adopts what the command leaves behind: doit's server of forked
processes, for example, ends after doit and would be missing in the CPU time. Linux only, because of /proc.
"""

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

PR_SET_CHILD_SUBREAPER = 36  # of linux/prctl.h
SHORTEST_PAUSE_SECONDS = 0.05
PAUSE_PER_LOOK = 30  # looking takes longer the more memory there is, and must not slow down what is looked at


@dataclass(frozen=True)
class Cost:
    """Seconds of wall and CPU time (user and system); peak of the summed proportional set sizes, in bytes."""

    wall: float
    cpu: float
    peak: int


def measure(command: Sequence[object], *, log: Path, env: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its end and say what it cost; what it prints goes to ``log``.

    Raises:
        subprocess.CalledProcessError: the command failed; its note is the end of the log.
    """
    with tempfile.TemporaryDirectory() as folder:
        cost = Path(folder) / "cost.json"
        words = [sys.executable, __file__, str(cost), *map(str, command)]
        with log.open("wb") as out:
            done = subprocess.run(words, stdout=out, stderr=subprocess.STDOUT, env=env, check=False)
        if done.returncode:
            error = subprocess.CalledProcessError(done.returncode, words[3:])
            error.add_note(log.read_text(errors="replace")[-2000:])
            raise error
        return Cost(**json.loads(cost.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cost", type=Path, help="the file for the result")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    _adopt_orphans()
    peak = _Peak()
    started = perf_counter()
    with peak:
        code = subprocess.run(options.command, check=False).returncode
        wall = perf_counter() - started
        _wait_for_orphans()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = Cost(wall=wall, cpu=usage.ru_utime + usage.ru_stime, peak=peak.bytes)
    options.cost.write_text(json.dumps(asdict(cost)))
    sys.exit(code)


def _adopt_orphans() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _wait_for_orphans() -> None:
    """Once waited for, their CPU time counts as that of this process's children."""
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass


class _Peak:
    """Looks at the memory of all descendants of this process, again and again, while it is entered."""

    def __init__(self) -> None:
        self.bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        pause = SHORTEST_PAUSE_SECONDS
        while not self._over.wait(pause):
            started = perf_counter()
            self.bytes = max(self.bytes, memory_below(os.getpid()))
            pause = max(SHORTEST_PAUSE_SECONDS, PAUSE_PER_LOOK * (perf_counter() - started))


def memory_below(root: int) -> int:
    """Of all descendants of a process, in bytes; what several of them share counts once."""
    return sum(map(_proportional_set_size, _descendants(root)))


def _descendants(root: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for process in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        children.setdefault(_parent(process), []).append(process)
    waiting = [root]
    while waiting:
        found = children.get(waiting.pop(), [])
        waiting += found
        yield from found


def _parent(process: int) -> int:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:  # it has just ended
        return -1
    return int(stat.rpartition(")")[2].split()[1])


def _proportional_set_size(process: int) -> int:
    try:
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
