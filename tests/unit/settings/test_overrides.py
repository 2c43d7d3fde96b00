"""doit's command-line words reach Hydra exactly as typed; the contract with doit's private dictionary."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.settings.overrides import MOST_COMBINATIONS, expand

ROOT = Path(__file__).resolve().parents[3]
DODO = """
import sys
sys.path.insert(0, {root!r})
from tasks.settings.command_line import command_line_words
print(command_line_words())
def task_nothing():
    return {{"actions": None}}
"""


def words_seen_by_dodo(folder: Path, *typed: str) -> str:
    (folder / "dodo.py").write_text(DODO.format(root=str(ROOT)))
    # `doit info` ends with 1 for a task that is to run, so the exit code means nothing here
    command = [sys.executable, "-m", "doit", *typed]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0]


@pytest.mark.parametrize("command", [[], ["run"], ["list"], ["clean"], ["info", "nothing"]])
def test_doit_hands_over_every_form_of_word_exactly_for_every_command(tmp_path: Path, command: list[str]) -> None:
    typed = ["+a.b=1", "++a=1", "a=[1,2]", "e='p=q'", "f=x=y", "g=", "model=demo,cosyvoice2"]
    assert words_seen_by_dodo(tmp_path, *command, *typed) == repr(typed)


def test_a_deletion_is_typed_with_an_equals_sign(tmp_path: Path) -> None:
    assert words_seen_by_dodo(tmp_path, "~a=") == repr(["~a"])


def test_sweeps_span_every_combination() -> None:
    combinations, problems = expand(["precision=fp32,fp16", "onnx.opset=18", "model=demo,cosyvoice2"])
    assert not problems
    assert combinations == [
        [f"precision={precision}", "onnx.opset=18", f"model={model}"]
        for precision in ("fp32", "fp16")
        for model in ("demo", "cosyvoice2")
    ]


def test_lists_and_quoted_commas_are_values_and_not_sweeps() -> None:
    words = ["tensorrt.profiles=[{frames: [4,5,6]},{frames: [7,8,9]}]", "model.name='a,b'"]
    assert expand(words) == ([words], [])


@pytest.mark.parametrize("word", ["train.seed=range(0,1000000000)", "train.seed=shuffle(range(0,1000000000))"])
def test_a_sweep_of_too_many_values_is_refused_before_it_is_written_out(word: str) -> None:
    _, (problem,) = expand([word])
    assert problem == f"{word}: this sweep has more than {MOST_COMBINATIONS} values"


def test_many_small_sweeps_are_refused_before_they_are_multiplied() -> None:
    words = [f"model.axes.{axis}.{bound}=1,2,3" for axis in ("frames", "tokens", "batch") for bound in ("min", "max")]
    combinations, (problem,) = expand([*words, "train.seed=1,2,3,4,5,6,7,8,9"] * 5)
    assert not combinations
    assert f"at most {MOST_COMBINATIONS}" in problem


@pytest.mark.parametrize(
    "word",
    [
        "train.seed=range(5,5)", "train.lr=range(0.1,nan)", f"onnx.opset={'9' * 5000}", f"onnx.opset={'[' * 5000}",
        f"tensorrt.profile={'{a: ' * 300}1{'}' * 300}", f"onnx.keep_fp32=[{'a,' * 20_000}a]", "train.seed=range(0,9,0)",
    ],
)  # fmt: skip
def test_numbers_brackets_and_sweeps_that_nobody_can_mean_are_refused_at_once(word: str) -> None:
    combinations, (problem,) = expand([word])
    assert combinations == [[]]
    assert problem.startswith(word)


def test_a_word_outside_the_grammar_is_a_problem_and_the_others_stay() -> None:
    combinations, (problem,) = expand(["a=[1", "onnx.opset=18"])
    assert combinations == [["onnx.opset=18"]]
    assert problem.startswith("a=[1: not in Hydra's override grammar")


@pytest.mark.parametrize("word", ["=3", "+=3", "++=3", "verify.trials=glob(*)", "train.lr=interval(0,1)"])
def test_words_without_a_setting_and_sweeps_without_values_are_problems_too(word: str) -> None:
    combinations, (problem,) = expand([word, "onnx.opset=18"])
    assert combinations == [["onnx.opset=18"]]
    assert problem.startswith(f"{word}: ")


def test_a_profile_of_a_new_axis_needs_no_plus_signs() -> None:
    assert expand(["tensorrt.profile.frames=[4,500,3000]"]) == ([["++tensorrt.profile.frames=[4,500,3000]"]], [])
