"""Digests: of bytes and of code, remembered as long as the file has not been written."""

import os
import time
from pathlib import Path

import pytest

from tasks.freshness.decide import code_digests
from tasks.freshness.digests import RACY_SECONDS, Digests, sha256


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"one")
    time.sleep(2 * RACY_SECONDS)
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


@pytest.fixture
def code(tmp_path: Path) -> Path:
    package = tmp_path / "tasks"
    package.mkdir()
    (package / "action.py").write_text("from tasks.layer import Layer\nimport json\n\ndef run():\n    return Layer()\n")
    (package / "layer.py").write_text('"""A layer."""\n\nclass Layer:\n    size = 1\n')
    (package / "other.py").write_text("x = 1\n")
    return tmp_path


def code_of_action(root: Path) -> dict[str, str]:
    return code_digests(["tasks.action"], Digests(root / "memo.json"), root=root)


def test_the_code_of_an_action_is_its_module_and_every_project_module_it_imports(code: Path) -> None:
    assert set(code_of_action(code)) == {"tasks.action", "tasks.layer"}


@pytest.mark.parametrize(
    "text",
    [
        '"""Another docstring."""\n\nclass Layer:\n    size = 1\n',
        '# a comment\nclass Layer:\n    """Now with words."""\n\n    size = 1  # one\n',
    ],
)
def test_comments_and_docstrings_do_not_count(code: Path, text: str) -> None:
    before = code_of_action(code)
    (code / "tasks" / "layer.py").write_text(text)
    assert code_of_action(code) == before


def test_a_changed_statement_in_an_imported_module_counts(code: Path) -> None:
    before = code_of_action(code)
    (code / "tasks" / "layer.py").write_text("class Layer:\n    size = 2\n")
    after = code_of_action(code)
    assert [module for module in before if before[module] != after[module]] == ["tasks.layer"]


def test_a_module_that_is_not_imported_does_not_count(code: Path) -> None:
    before = code_of_action(code)
    (code / "tasks" / "other.py").write_text("x = 2\n")
    assert code_of_action(code) == before
