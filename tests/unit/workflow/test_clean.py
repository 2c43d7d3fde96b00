"""What `doit clean` removes, and what it only names."""

from pathlib import Path

import pytest
from filelock import FileLock

from tasks.errors import UserError
from tasks.paths import lock_path
from tasks.pipeline.step import Step
from tasks.workflow.clean import clean, refuse_beside_a_run


@pytest.fixture
def step(tmp_path: Path) -> Step:
    """A verification that passed once and failed later."""
    tmp_path = tmp_path / "demo"
    tmp_path.mkdir()
    artifact, report = tmp_path / "x.onnx", tmp_path / "verify" / "x.onnx.json"
    report.parent.mkdir()
    for path in (artifact, report, report.with_name("x.onnx.json.receipt.json")):
        path.write_text("{}")
    (tmp_path / "x.onnx.failed-verification.json").write_text("{}")
    return Step("verify_onnx", "demo/x", "a:run", {"artifact": artifact}, {"report": report}, {})


def root_of(step: Step) -> Path:
    return step.inputs["artifact"].parents[1]


def test_what_a_step_made_goes_with_the_folder_that_is_empty_then_and_its_inputs_stay(step: Step) -> None:
    clean(step, root_of(step), dryrun=False)
    folder = step.inputs["artifact"].parent
    assert [path.name for path in folder.rglob("*")] == ["x.onnx"]


def test_a_dry_run_names_the_same_files_and_removes_none(step: Step, capsys: pytest.CaptureFixture[str]) -> None:
    folder = step.inputs["artifact"].parent
    before = sorted(folder.rglob("*"))
    clean(step, root_of(step), dryrun=True)
    assert sorted(folder.rglob("*")) == before
    named = [line.partition("removing ")[2] for line in capsys.readouterr().out.splitlines()]
    assert {Path(name) for name in named} == {path for path in before if path.is_file()} - {step.inputs["artifact"]}


def test_nothing_is_removed_while_a_step_is_being_built(step: Step) -> None:
    root = root_of(step)
    refuse_beside_a_run([step], root)
    lock = lock_path(root, step.task)
    lock.parent.mkdir(parents=True)
    with FileLock(lock), pytest.raises(UserError, match=f"{step.task}: another run is building this step"):
        refuse_beside_a_run([step], root)
    refuse_beside_a_run([step], root)
