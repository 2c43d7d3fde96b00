"""The user's cache of settings: used where it is safe and possible, silently done without elsewhere."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.settings import cache_folder
from tests.support.read_only import read_only


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "voxkiln" / "settings"


def test_what_was_written_is_read(folder: Path) -> None:
    cache_folder.write("key", "text\n\udcff粤语".replace("\udcff", "?"))
    assert cache_folder.read("key") == "text\n?粤语"
    assert [path.name for path in folder.iterdir()] == ["key"]


def test_nobody_else_can_look_into_the_folder(folder: Path) -> None:
    cache_folder.write("key", "text")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_usual_place_is_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("", "relative/path"):  # the XDG specification tells to ignore these
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        cache_folder.write("key", given)
        (made,) = tmp_path.rglob("key")
        assert "cache" in str(made.relative_to(tmp_path)).lower()
        assert cache_folder.read("key") == given


def in_the_place_of_the_folder(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file")


def in_the_place_of_a_parent(folder: Path) -> None:
    folder.parent.parent.write_text("a file")


def link_to_nowhere(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.symlink_to("nowhere/at/all")


@pytest.mark.parametrize("spoil", [in_the_place_of_the_folder, in_the_place_of_a_parent, link_to_nowhere])
def test_something_else_in_its_place_is_left_alone(folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder)
    before = sorted(folder.parents[2].rglob("*"))
    cache_folder.write("key", "text")
    assert cache_folder.read("key") == ""
    assert sorted(folder.parents[2].rglob("*")) == before


def test_a_folder_in_the_place_of_an_entry_is_left_alone(folder: Path) -> None:
    (folder / "key").mkdir(parents=True)
    cache_folder.write("key", "text")
    assert cache_folder.read("key") == ""
    assert [path.name for path in folder.iterdir()] == ["key"]


def test_a_pipe_in_the_place_of_an_entry_is_not_waited_for(folder: Path) -> None:
    cache_folder.write("other", "text")
    os.mkfifo(folder / "key")
    assert cache_folder.read("key") == ""


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o720])
def test_a_folder_that_others_can_write_is_not_trusted(folder: Path, mode: int) -> None:
    cache_folder.write("key", "text")
    folder.chmod(mode)
    assert cache_folder.read("key") == ""
    cache_folder.write("more", "text")
    assert [path.name for path in folder.iterdir()] == ["key"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_folder_of_somebody_else_is_not_trusted_and_none_is_made_in_one(folder: Path) -> None:
    cache_folder.write("key", "text")
    os.chown(folder, 12345, 12345)
    assert cache_folder.read("key") == ""
    folder.joinpath("key").unlink()
    folder.rmdir()
    os.chown(folder.parent, 12345, 12345)
    cache_folder.write("key", "text")
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_still_read(folder: Path) -> None:
    cache_folder.write("key", "text")
    with read_only(folder):
        cache_folder.write("more", "text")
        assert cache_folder.read("key") == "text"
        assert cache_folder.read("more") == ""


def test_a_full_disk_leaves_nothing_behind(folder: Path) -> None:
    cache_folder.write("key", "text")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # what writes more gets an OSError, as Python sets it up
    try:
        cache_folder.write("more", "text" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in folder.iterdir()] == ["key"]


def test_an_entry_that_is_too_large_is_not_kept(folder: Path) -> None:
    cache_folder.write("key", "x" * cache_folder.MOST_BYTES)
    assert not folder.exists()


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_without_a_home_everything_goes_on(home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", home or "")
    if home is None:
        monkeypatch.delenv("HOME")
    cache_folder.write("key", "text")
    assert cache_folder.read("key") == ""
    assert not list(tmp_path.iterdir())


def test_only_the_newest_entries_are_kept_and_what_a_killed_run_left_goes_with_the_others(folder: Path) -> None:
    cache_folder.write("0", "text")
    (folder / ".1.4711").write_text("half")
    for number in range(cache_folder.MOST_ENTRIES + 20):
        (folder / f"old{number}").touch()
        os.utime(folder / f"old{number}", (number, number))
    os.utime(folder / ".1.4711", (1, 1))
    os.utime(folder / "0", (time.time(), time.time()))
    cache_folder.write("new", "text")
    left = {path.name for path in folder.iterdir()}
    assert len(left) == cache_folder.MOST_ENTRIES
    assert {"new", "0"} <= left
    assert not {"old0", ".1.4711"} & left


def test_many_writers_and_readers_at_once_never_see_half_an_entry(folder: Path) -> None:
    code = (
        "import sys; from tasks.settings import cache_folder as c\n"
        "for n in range(60):\n"
        "    c.write('key', sys.argv[1] * 50_000); c.write(f'{sys.argv[1]}{n}', 'x')\n"
        "    assert len(set(c.read('key'))) == 1, c.read('key')[:100]\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [subprocess.Popen([sys.executable, "-c", code, letter], env=environment) for letter in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(list(folder.iterdir())) <= cache_folder.MOST_ENTRIES + 1
