"""Digests: of bytes and of code, remembered as long as the file has not been written."""

import os
import threading
import time
from pathlib import Path

import pytest

from tasks.freshness.digests import RACY_SECONDS, Digests
from tasks.job import sha256
from tests.support.project import HANGS_AFTER_SECONDS


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
    both, read = threading.Barrier(3, timeout=HANGS_AFTER_SECONDS), []

    def read_with_another(path: Path) -> str:
        read.append(path)
        both.wait()
        return sha256(path)

    digests = Digests(tmp_path / "memo.json")
    digests.of_file(files[3])
    monkeypatch.setattr("tasks.freshness.digests.available_cores", lambda: 2)
    monkeypatch.setattr("tasks.freshness.digests.LARGE_BYTES", 1000)
    monkeypatch.setattr("tasks.freshness.digests.sha256", read_with_another)
    for _ in range(2):
        assert digests.begin([*files, tmp_path / "missing"]) == files[1:3]  # neither the small nor the remembered one
    both.wait()
    assert [digests.of_file(path) for path in files[1:3]] == [sha256(path) for path in files[1:3]]
    assert sorted(read) == files[1:3]


def test_a_large_file_that_cannot_be_read_is_reported_to_who_asks_for_it(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("tasks.freshness.digests.LARGE_BYTES", 1)
    monkeypatch.setattr("tasks.freshness.digests.sha256", denied)
    digests = Digests(tmp_path / "memo.json")
    assert digests.begin([file]) == [file]
    with pytest.raises(PermissionError):
        digests.of_file(file)


def test_a_large_file_is_digested_where_no_thread_can_be_started(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("tasks.freshness.digests.LARGE_BYTES", 1)
    monkeypatch.setattr(threading.Thread, "start", refused)
    digests = Digests(tmp_path / "memo.json")
    assert digests.begin([file]) == [file]
    assert digests.of_file(file) == sha256(file)


def test_a_file_written_just_now_is_digested_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing shows whether it has been written again since."""
    monkeypatch.setattr("tasks.freshness.digests.LARGE_BYTES", 1)
    monkeypatch.setattr("tasks.freshness.digests.RACY_SECONDS", 1e9)
    (tmp_path / "young.pt").write_bytes(b"one")
    assert Digests(tmp_path / "memo.json").begin([tmp_path / "young.pt"]) == []
