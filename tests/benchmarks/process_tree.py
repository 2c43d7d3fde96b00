"""Wall time, CPU seconds and peak memory of a command with everything that it starts, on Linux.

Processes that outlive their parent count as well: they become children of the measuring process, which waits for them.
"""

import contextlib
import ctypes
import os
import resource
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class Cost:
    """Of one run: seconds, and bytes that all its processes had in memory at once, shared pages counted once."""

    wall: float
    cpu: float
    memory: int


def cost_of(command: Sequence[str]) -> tuple[Cost, str]:
    """Run a command to its end and that of all its processes; what it cost and printed. Errors go to the terminal.

    Raises:
        CalledProcessError: it failed.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    before, started = _cpu_of_children(), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = _Peak(os.getpid())
    output, _ = process.communicate()
    wall = time.perf_counter() - started
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    memory = peak.stop()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(wall, _cpu_of_children() - before, memory), output


class _Peak:
    """Samples the memory below a process from a thread of its own."""

    def __init__(self, pid: int) -> None:
        self._pid, self._most, self._end = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def stop(self) -> int:
        self._end.set()
        self._thread.join()
        return self._most

    def _sample(self) -> None:
        while not self._end.wait(SAMPLE_SECONDS):
            self._most = max(self._most, sum(_proportional_bytes(pid) for pid in _descendants(self._pid)))


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _descendants(pid: int) -> list[int]:
    found = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # ended meanwhile
            for child in map(int, listing.read_text().split()):
                found += [child, *_descendants(child)]
    return found


def _proportional_bytes(pid: int) -> int:
    """Resident memory, of shared pages the process's share; 0 if it has ended."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024
    return 0
