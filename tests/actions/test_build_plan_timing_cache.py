"""Kernel timings are stored between builds, and trouble with their file never fails one."""

import errno
from pathlib import Path

import pytest

from tests.support.plan_jobs import build, plan_job
from tests.support.tensorrt_double import VERSIONS
from tests.support.tensorrt_simulation import Machine


@pytest.fixture
def machine(request) -> Machine:
    return Machine(getattr(request, "param", VERSIONS[0]))


@pytest.mark.parametrize("machine", VERSIONS, indirect=True)
def test_timings_are_stored_between_builds(machine, tmp_path):
    job = plan_job(tmp_path, timing_cache=str(tmp_path / "cache"))
    assert build(machine, job)["timing_cache"] == "new"
    (file,) = (tmp_path / "cache").glob("*.cache")
    assert machine.trt.__version__ in file.name
    assert "h200-sm90" in file.name
    assert build(machine, job)["timing_cache"] == "used"


@pytest.mark.parametrize("content", [b"nonsense", b"timings 8.6.1 old"])
def test_a_timing_cache_that_tensorrt_rejects_is_replaced(machine, tmp_path, content):
    job = plan_job(tmp_path, timing_cache=str(tmp_path / "cache"))
    build(machine, job)
    (file,) = (tmp_path / "cache").glob("*.cache")
    file.write_bytes(content)
    assert build(machine, job)["timing_cache"].startswith("replaced")
    assert file.read_bytes().endswith(b"tactic")


def test_timings_of_a_build_beside_this_one_are_not_lost(machine, tmp_path):
    job = plan_job(tmp_path, timing_cache=str(tmp_path / "cache"))
    build(machine, job)
    (file,) = (tmp_path / "cache").glob("*.cache")
    machine.faults.on_step = lambda step: file.write_bytes(f"timings {machine.version} other".encode())
    build(machine, job)
    assert file.read_bytes().split()[2:] == [b"other", b"tactic"]


def test_timings_that_cannot_be_stored_do_not_fail_the_build(machine, tmp_path):
    (tmp_path / "file").write_text("no folder")
    job = plan_job(tmp_path, timing_cache=str(tmp_path / "file" / "cache"))
    assert build(machine, job)["timing_cache"] == "new, not stored: Not a directory"
    assert job.outputs["plan"].stat().st_size > 0


def test_a_full_disk_leaves_the_stored_timings_and_the_plan(machine, tmp_path, monkeypatch):
    job = plan_job(tmp_path, timing_cache=str(tmp_path / "cache"))
    build(machine, job)
    (file,) = (tmp_path / "cache").glob("*.cache")
    before = file.read_bytes()
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.parent == file.parent:
            write(path, content[:3])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert build(machine, job)["timing_cache"] == "used, not stored: No space left on device"
    assert file.read_bytes() == before
    assert {path.name for path in file.parent.iterdir()} == {file.name, f"{file.name}.lock"}


def test_stored_timings_can_be_read_by_other_users(machine, tmp_path):
    build(machine, plan_job(tmp_path, timing_cache=str(tmp_path / "cache")))
    (file,) = (tmp_path / "cache").glob("*.cache")
    (tmp_path / "ordinary").touch()
    assert file.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_build_without_a_cache_folder_stores_no_timings(machine, tmp_path):
    assert build(machine, plan_job(tmp_path))["timing_cache"] == "off"
