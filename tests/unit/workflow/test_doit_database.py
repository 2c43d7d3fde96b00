"""doit's database is a cache: whatever happens to it, commands end as they would without it."""

from pathlib import Path

import pytest

from tasks.workflow.doit_database import DatabaseFile

ENTRIES = {"export_jit:demo/x": {"deps:": ["a"]}}


def database(file: Path, *, required: bool = False) -> DatabaseFile:
    return DatabaseFile(file, at_end=lambda: None, required=required)


def test_what_was_written_is_read_whatever_doit_itself_has_read(tmp_path: Path) -> None:
    assert database(tmp_path / "state" / "doit.json").encode(ENTRIES) == ""
    assert database(tmp_path / "state" / "doit.json").decode("") == ENTRIES


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe{}", b"[1]", b'{"task": 1}'])
def test_a_database_that_is_missing_or_damaged_is_empty(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "doit.json"
    if content is not None:
        file.write_bytes(content)
    assert database(file).decode("") == {}


@pytest.mark.parametrize("required", [False, True])
def test_one_that_cannot_be_written_ends_only_commands_that_do_nothing_else(tmp_path: Path, required: bool) -> None:
    (tmp_path / "state").touch()
    unusable = database(tmp_path / "state" / "doit.json", required=required)
    if required:
        with pytest.raises(SystemExit, match="cannot be written"):
            unusable.encode(ENTRIES)
    else:
        assert unusable.encode(ENTRIES) == ""


def test_the_end_of_a_command_is_reported(tmp_path: Path) -> None:
    ended: list[bool] = []
    DatabaseFile(tmp_path / "doit.json", at_end=lambda: ended.append(True), required=False).encode({})
    assert ended == [True]


def test_entries_that_are_there_already_are_not_written_again(tmp_path: Path) -> None:
    file = tmp_path / "doit.json"
    database(file).encode(ENTRIES)
    before = file.stat()
    database(file).encode(dict(ENTRIES))
    assert file.stat() == before
    database(file).encode({})
    assert database(file).decode("") == {}
