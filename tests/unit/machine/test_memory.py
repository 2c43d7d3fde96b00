"""The memory that is left: of the system, or of the narrowest control group around this process."""

from pathlib import Path

import pytest

from tasks.machine.memory import available_memory

SYSTEM = {"proc/meminfo": "MemTotal: 8000 kB\nMemAvailable:    4000 kB\n"}
GROUP = "sys/fs/cgroup/a/b"


def machine(root: Path, **files: str) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def group(
    folder: str, limit: str, used: int, *, cached: int = 0, names: tuple[str, str] = ("memory.max", "memory.current")
) -> dict[str, str]:
    stat = f"anon 5\ninactive_file {cached}\nactive_file 0\n"
    return {f"{folder}/{names[0]}": f"{limit}\n", f"{folder}/{names[1]}": f"{used}\n", f"{folder}/memory.stat": stat}


def test_without_groups_it_is_what_the_system_has(tmp_path: Path) -> None:
    assert available_memory(machine(tmp_path, **SYSTEM)) == 4000 * 1024


@pytest.mark.parametrize("folder", [GROUP, "sys/fs/cgroup/a", "sys/fs/cgroup"])
def test_the_limit_of_a_group_or_of_one_around_it_counts(tmp_path: Path, folder: str) -> None:
    files = SYSTEM | {"proc/self/cgroup": "0::/a/b\n"} | group(folder, "1000000", 400_000, cached=100_000)
    assert available_memory(machine(tmp_path, **files)) == 700_000


def test_a_group_of_the_first_version_counts(tmp_path: Path) -> None:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    files = {"proc/self/cgroup": "9:cpu:/\n4:memory:/a\n"} | group("sys/fs/cgroup/memory/a", "1000", 900, names=names)
    assert available_memory(machine(tmp_path, **SYSTEM, **files)) == 100


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [("max", 1, 4000 * 1024), ("1000", 2000, 0), (str(2**62), 1, 4000 * 1024), ("?", 1, 4000 * 1024)],
)
def test_a_group_without_a_limit_or_beyond_it_is_no_error(tmp_path: Path, limit: str, used: int, expected: int) -> None:
    files = SYSTEM | {"proc/self/cgroup": "0::/a/b\n"} | group(GROUP, limit, used)
    assert available_memory(machine(tmp_path, **files)) == expected


def test_here_there_is_some() -> None:
    assert available_memory() > 0
