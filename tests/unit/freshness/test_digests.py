"""Digests: of bytes and of code, remembered as long as the file has not been written."""

import os
import threading
import time
from pathlib import Path

import pytest

from tasks.freshness.digests import RACY_SECONDS, Digests
from tasks.job import sha256


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"one")
    while time.time() - path.stat().st_ctime <= RACY_SECONDS:  # the time of a change cannot be set
        time.sleep(RACY_SECONDS)
    return path


def test_a_remembered_digest_is_not_computed_again(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = Digests(tmp_path / "memo.json")
    first = digests.of_file(file)
    digests.save()
    monkeypatch.setattr("tasks.freshness.digests.sha256", lambda path: pytest.fail("hashed again"))
    assert Digests(tmp_path / "memo.json").of_file(file) == first


def test_an_edit_that_keeps_size_and_modification_time_is_noticed(file: Path, tmp_path: Path) -> None:
    digests = Digests(tmp_path / "memo.json")
    before, times = digests.of_file(file), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_bytes(b"two")
    os.utime(file, ns=times)
    assert digests.of_file(file) == sha256(file) != before


def test_a_file_written_just_now_is_not_remembered(tmp_path: Path) -> None:
    path, digests = tmp_path / "young.pt", Digests(tmp_path / "memo.json")
    path.write_bytes(b"one")
    digests.of_file(path)
    assert not digests._entries


def test_a_broken_memo_is_an_empty_one(file: Path, tmp_path: Path) -> None:
    (tmp_path / "memo.json").write_text("{ broken")
    assert Digests(tmp_path / "memo.json").of_file(file) == sha256(file)


def test_the_digest_that_a_writer_has_computed_is_taken_over_unless_the_file_was_changed_since(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests, written = Digests(tmp_path / "memo.json"), file.stat().st_mtime_ns
    moved = file.rename(tmp_path / "artifact.pt")
    digests.adopt(moved, "the writer's", modified_ns=written)
    assert digests.of_file(moved) == "the writer's"
    moved.write_bytes(b"two")
    digests.adopt(moved, "the writer's", modified_ns=written)
    assert digests.of_file(moved) == sha256(moved)


def test_large_files_that_are_new_are_read_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{number}.bin" for number in range(4)]
    for number, path in enumerate(files):
        path.write_bytes(bytes([number]) * (1000 if number else 10))
    time.sleep(2 * RACY_SECONDS)
    both, read = threading.Barrier(2, timeout=60), []

    def read_with_another(path: Path) -> str:
        read.append(path)
        both.wait()
        return sha256(path)

    digests = Digests(tmp_path / "memo.json")
    digests.of_file(files[3])
    monkeypatch.setattr("tasks.job.available_cores", lambda: 2)
    monkeypatch.setattr("tasks.freshness.digests.LARGE_BYTES", 1000)
    monkeypatch.setattr("tasks.freshness.digests.sha256", read_with_another)
    digests.learn([*files, tmp_path / "missing"])
    assert sorted(read) == files[1:3]  # neither the small one nor the remembered one
    monkeypatch.setattr("tasks.freshness.digests.sha256", lambda path: pytest.fail("hashed again"))
    assert digests.of_file(files[1]) == sha256(files[1])
