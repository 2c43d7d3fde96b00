"""What a command costs counts everything that it starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.measure import Cost, measure, memory_below

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="benchmarks read /proc")
MIB = 2**20
HALF_A_SECOND_OF_CPU = "import time\nwhile time.process_time() < 0.5: pass"
LEAVES_A_PROCESS_BEHIND = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", {HALF_A_SECOND_OF_CPU!r}])
"""
HOLDS_MEMORY = f"held = bytearray({100 * MIB}); print('held', flush=True); input()"
TWO_HOLD_MEMORY = f"""
from subprocess import PIPE, Popen
import sys
both = [Popen([sys.executable, "-c", {HOLDS_MEMORY!r}], stdin=PIPE, stdout=PIPE) for _ in range(2)]
print([process.stdout.readline() for process in both], flush=True)
input()
[process.communicate(b"\\n") for process in both]
"""


def cost_of(code: str, folder: Path) -> Cost:
    return measure([sys.executable, "-c", code], log=folder / "log")


def test_the_cpu_time_of_the_command_counts(tmp_path: Path) -> None:
    assert cost_of(HALF_A_SECOND_OF_CPU, tmp_path).cpu >= 0.5


def test_a_process_that_outlives_the_command_counts_as_well(tmp_path: Path) -> None:
    assert cost_of(LEAVES_A_PROCESS_BEHIND, tmp_path).cpu >= 0.5


def test_the_memory_of_processes_adds_up() -> None:
    command = [sys.executable, "-c", TWO_HOLD_MEMORY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline().count("held") == 2
        assert 200 * MIB <= memory_below(process.pid) < 300 * MIB
        process.communicate("\n")


def test_a_command_that_fails_is_an_error_with_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        cost_of("import sys; sys.exit('no such model')", tmp_path)
    assert any("no such model" in note for note in caught.value.__notes__)
