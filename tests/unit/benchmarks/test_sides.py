"""The published side: what it needs is asked for, and what no export uses need not be installed."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.sides import ROOT, Published, add_published, only_parts, published

IMPORTS = """
import sys
from pathlib import Path
from tests.benchmarks import published
published._find_checkout(Path(sys.argv[1]))
import cosyvoice.uses_it
try:
    import no_such_library
except ModuleNotFoundError as error:
    print(error)
"""
MODULE = """
import whisper.tokenizer
from lightning.pytorch.utilities import rank_zero_only
@rank_zero_only
def kept(): return "the checkout's module runs"
print(kept())
"""


def side(*words: str) -> Published | None:
    parser = argparse.ArgumentParser()
    add_published(parser)
    return published(parser.parse_args(words), parser)


def checkout_in(folder: Path) -> Path:
    (folder / "third_party" / "Matcha-TTS" / "matcha").mkdir(parents=True)
    return folder


def test_without_a_checkout_there_is_no_published_side() -> None:
    assert side() is None


def test_a_folder_without_matcha_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        side("--published", str(tmp_path), "--published-python", sys.executable)
    assert "Check out its submodule" in capsys.readouterr().err


def test_a_checkout_without_its_python_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        side("--published", str(checkout_in(tmp_path)))
    assert "needs --published-python" in capsys.readouterr().err


def test_a_python_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        side("--published", str(checkout_in(tmp_path)), "--published-python", str(tmp_path / "python"))
    assert f"there is no {tmp_path / 'python'}" in capsys.readouterr().err


def test_another_benchmark_is_told_of_the_same_side(tmp_path: Path) -> None:
    found = side("--published", str(checkout_in(tmp_path)), "--published-python", sys.executable)
    assert found is not None
    assert side(*found.words()) == found


def test_a_folder_of_some_parts_has_their_weights_only(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("cosyvoice2.yaml", "flow.pt", "llm.pt"):
        (folder / name).write_text(name)
    some = only_parts(["flow"], folder, tmp_path)
    assert {file.name: file.read_text() for file in some.iterdir()} == {
        "cosyvoice2.yaml": "cosyvoice2.yaml",
        "flow.pt": "flow.pt",
    }


def test_libraries_that_no_export_uses_need_not_be_installed(tmp_path: Path) -> None:
    checkout = checkout_in(tmp_path)
    (checkout / "cosyvoice").mkdir()
    (checkout / "cosyvoice" / "uses_it.py").write_text(MODULE)
    command = [sys.executable, "-c", IMPORTS, str(checkout)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["the checkout's module runs", "No module named 'no_such_library'"]
