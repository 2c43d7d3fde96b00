"""The options of a run are read as doit reads them, however they are written."""

import sys
from collections.abc import Iterator

import pytest

from tasks.errors import UserError
from tasks.workflow.run_options import is_run, refuse_processes, run_options


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    run_options.cache_clear()
    yield
    run_options.cache_clear()


@pytest.mark.parametrize(
    ("words", "always", "at_once"),
    [
        ("", False, 0),
        ("-a", True, 0),
        ("--always-execute", True, 0),
        ("--always", True, 0),
        ("-ca average", True, 0),
        ("-can2 average", True, 2),
        ("-n 2 -a", True, 2),
        ("--proc 2 average", False, 2),
        ("--process=3", False, 3),
        ("run -a average", True, 0),
        ("-f dodo.py run -a", True, 0),
        ("-f dodo.py onnx.opset=17 -a", True, 0),
        ("onnx.opset=17 -an 2 export_onnx", True, 2),
        ("run export_onnx -a", False, 0),  # doit takes what comes after a task for the task's own
        ("clean -a", False, 0),  # another command's option
        ("list --all", False, 0),
    ],
)
def test_an_option_counts_as_it_does_for_doit(
    words: str, always: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["doit", *words.split()])
    assert (run_options().get("always", False), run_options().get("num_process", 0)) == (always, at_once)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", True),
        ("average onnx.opset=17", True),
        ("onnx.opset=17 average", True),
        ("run", True),
        ("-n 2", True),
        ("-f dodo.py run average", True),
        ("list --all", False),
        ("onnx.opset=17 info average", False),
    ],
)
def test_a_run_is_known_from_other_commands(words: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["doit", *words.split()])
    assert is_run() == expected


@pytest.mark.parametrize("words", ["-n 2 -P process", "-n2 -Pprocess average", "--par process --proc=2"])
def test_steps_in_processes_of_doit_are_refused(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["doit", *words.split()])
    with pytest.raises(UserError, match="-P process"):
        refuse_processes()


@pytest.mark.parametrize("words", ["-n 2", "-n 2 -P thread", "-P process", "clean -n"])
def test_anything_else_is_not(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["doit", *words.split()])
    refuse_processes()
