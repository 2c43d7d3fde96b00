"""How much memory processes started now can take: what the system has, within what a container's group may have."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

KIB = 1024


def available_memory(root: Path = Path("/")) -> int:
    """In bytes; what files only keep in memory for the next reader counts as available.

    Args:
        root: where /proc and /sys are.
    """
    return max(0, min([_of_the_system(root), *_of_groups(root)]))


def _of_the_system(root: Path) -> int:
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = (root / "proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * KIB
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # no such file on macOS


def _of_groups(root: Path) -> Iterator[int]:
    """What is left of the limits of this process's control groups, of version 2 and 1."""
    for place, limit, used in (
        ("", "memory.max", "memory.current"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        for folder in _folders(root, place):
            with contextlib.suppress(OSError, ValueError):  # no limit is there, or "max"
                yield int((folder / limit).read_text()) - int((folder / used).read_text()) + _cached(folder)


def _folders(root: Path, place: str) -> Iterator[Path]:
    """The process's group and those around it; inside a container the group may be the outermost that is seen."""
    top = root / "sys/fs/cgroup" / place
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers.split(",") == [place] or place in controllers.split(","):
                group = top / path.lstrip("/")
                yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))


def _cached(folder: Path) -> int:
    lines = (folder / "memory.stat").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.split()[0] in ("inactive_file", "active_file"))
