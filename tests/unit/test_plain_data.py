"""How files of our own are written."""

import os
from pathlib import Path

import pytest

from tasks.plain_data import write_atomically


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_file_that_cannot_be_written_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "memo.json"
    file.write_text("old")
    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "replace")), full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"memo.json": "old"}
