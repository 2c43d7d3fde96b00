"""Functions by name: loaded in a child, and checked before anything runs without importing what they name."""

import sys
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.objects import find_source, load_object, loaded_modules, problem_with_object

SOURCE = """
raise RuntimeError("this module must not be imported to be checked")
from os.path import join as joined
import json as reader
NUMBER: int = 3
TEXTS = ["a"]
made = dict(a=1)
first, second = len, max
unset: int
class Net: ...
async def later(): ...
try:
    import fast
    def quick(): ...
except ImportError:
    quick = None
    def slow(): ...
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's package on the import path whose modules refuse to be imported."""
    folder = tmp_path / "speech_net" / "inner"
    folder.mkdir(parents=True)
    (tmp_path / "speech_net" / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "net.py").write_text(SOURCE)
    (folder / "open.py").write_text("from os.path import *")
    (folder / "broken.py").write_text("def build(:")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["joined", "made", "first", "second", "Net", "later", "slow"])
def test_names_that_may_be_callable_have_no_problem(package: Path, name: str) -> None:
    assert problem_with_object(f"speech_net.inner.net:{name}") == ""


@pytest.mark.parametrize("name", ["NUMBER", "TEXTS", "reader"])
def test_a_literal_or_a_module_is_not_callable(package: Path, name: str) -> None:
    assert "not callable" in problem_with_object(f"speech_net.inner.net:{name}")


@pytest.mark.parametrize("name", ["buildd", "unset"])
def test_a_name_that_the_source_does_not_bind_is_a_problem(package: Path, name: str) -> None:
    assert problem_with_object(f"speech_net.inner.net:{name}") == f"speech_net.inner.net has no {name}"


def test_checking_imports_neither_the_module_nor_its_packages(package: Path) -> None:
    problem_with_object("speech_net.inner.net:Net")
    assert not [name for name in sys.modules if name.startswith("speech_net")]


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("speech_nett.inner.net:Net", "speech_nett"),
        ("speech_net.outer.net:Net", "speech_net.outer"),
        ("speech_net.inner.nets:Net", "speech_net.inner.nets"),
        ("speech_net.inner.net.deeper:Net", "speech_net.inner.net.deeper"),
    ],
)
def test_the_first_module_that_does_not_exist_is_named(package: Path, name: str, missing: str) -> None:
    assert problem_with_object(name) == f"there is no module {missing}"


@pytest.mark.parametrize("name", ["", "json", "json:", ":loads", "json:a.b", "js on:loads", "1json:loads", "a:b:c"])
def test_a_malformed_name_is_a_problem_and_an_error(name: str) -> None:
    assert problem_with_object(name) == "is not of the form module:function"
    with pytest.raises(UserError, match="module:function"):
        load_object(name)


def test_what_a_source_does_not_show_is_taken_to_be_right(package: Path) -> None:
    assert problem_with_object("speech_net.inner.open:anything") == ""
    assert problem_with_object("math:sqrt") == ""


def test_a_source_that_cannot_be_parsed_is_a_problem_with_its_line(package: Path) -> None:
    assert "line 1" in problem_with_object("speech_net.inner.broken:build")


def test_a_function_is_loaded_by_its_name() -> None:
    assert load_object("os.path:join")("a", "b").startswith("a")


@pytest.mark.parametrize("name", ["json:loadss", "json:__name__", "no_such_package.net:build"])
def test_what_cannot_be_loaded_is_one_error_with_the_name(name: str) -> None:
    with pytest.raises(UserError, match=name):
        load_object(name)


def test_a_source_is_found_without_importing_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package_with_a_source"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "layer.py").write_text("WIDTH = 4\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_source("package_with_a_source.layer") == package / "layer.py"
    assert find_source("package_with_a_source.nothing") is None


def test_modules_of_objects_that_were_loaded_by_name_are_remembered() -> None:
    load_object("json.decoder:JSONDecoder")
    assert "json.decoder" in loaded_modules()
