"""What `doit clean` removes, and what it only names."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tasks.errors import UserError
from tasks.freshness.receipt import Ingredients, Receipt
from tasks.paths import lock_path
from tasks.pipeline.step import Step
from tasks.workflow.clean import clean, end_of_clean, refuse_beside_a_run


@pytest.fixture
def step(tmp_path: Path) -> Step:
    """A verification that passed once and failed later."""
    tmp_path = tmp_path / "demo"
    tmp_path.mkdir()
    artifact, report = tmp_path / "x.onnx", tmp_path / "verify" / "x.onnx.json"
    report.parent.mkdir()
    for path in (artifact, report, tmp_path / "x.onnx.failed-verification.json"):
        path.write_text("{}")
    step = Step("verify_onnx", "demo/x", "a:run", {"artifact": artifact}, {"report": report}, {})
    written = {report.name: {"sha256": "0" * 64, "size": 2}}
    Receipt(step.task, Ingredients("a:run", {}, {}, {}, {}), written, {}, {}).write(step.receipt)
    return step


def root_of(step: Step) -> Path:
    return step.inputs["artifact"].parents[1]


def test_what_a_step_made_goes_with_the_folder_that_is_empty_then_and_its_inputs_stay(step: Step) -> None:
    clean(step, root_of(step), [], dryrun=False)
    folder = step.inputs["artifact"].parent
    assert [path.name for path in folder.rglob("*")] == ["x.onnx"]


def test_a_dry_run_names_the_same_files_and_removes_none(step: Step, capsys: pytest.CaptureFixture[str]) -> None:
    folder = step.inputs["artifact"].parent
    before = sorted(folder.rglob("*"))
    clean(step, root_of(step), [], dryrun=True)
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


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere"), Path.mkdir])
@pytest.mark.parametrize("dryrun", [False, True])
def test_what_no_receipt_describes_is_left_and_named(
    step: Step, make: Callable[[Path], None], dryrun: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    problems: list[str] = []
    step.receipt.unlink()
    report = step.outputs["report"]
    report.unlink()
    make(report)
    clean(step, root_of(step), problems, dryrun=dryrun)
    assert os.path.lexists(report)
    assert f"{step.task}: leaving {report}, which no receipt describes" in capsys.readouterr().out
    assert problems == []


def test_a_link_to_nothing_in_the_place_of_an_artifact_goes(step: Step) -> None:
    report = step.outputs["report"]
    report.unlink()
    report.symlink_to("nowhere")
    clean(step, root_of(step), [], dryrun=False)
    assert not report.parent.exists()


def deny(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = Path.unlink

    def denying(self: Path, missing_ok: bool = False) -> None:
        if self == path:
            raise PermissionError(13, "Permission denied")
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", denying)


@pytest.mark.parametrize("obstacle", ["is a folder", "Permission denied"])
def test_what_cannot_be_removed_is_reported_at_the_end_and_keeps_its_receipt(
    step: Step, obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems: list[str] = []
    report = step.outputs["report"]
    if obstacle == "is a folder":
        report.unlink()
        report.mkdir()
    else:
        deny(report, monkeypatch)
    clean(step, root_of(step), problems, dryrun=False)
    assert problems == [f"{report}: {obstacle}"]
    left = {path.name for path in root_of(step).rglob("*") if path.is_file() or path == report}
    assert left == {"x.onnx", report.name, step.receipt.name, f"{step.name.rpartition('/')[2]}.lock"}
    with pytest.raises(SystemExit, match="some files could not be removed"):
        end_of_clean(problems)


def test_a_lock_that_cannot_be_taken_is_reported_and_nothing_is_removed(step: Step) -> None:
    problems: list[str] = []
    lock = lock_path(root_of(step), step.task)
    lock.mkdir(parents=True)
    clean(step, root_of(step), problems, dryrun=False)
    (problem,) = problems
    assert problem.startswith(f"{lock}: ")
    assert step.outputs["report"].is_file()


def test_a_clean_that_removed_everything_ends_as_usual() -> None:
    end_of_clean([])


def test_a_clean_of_which_the_report_cannot_be_written_removes_all_the_same(
    step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        monkeypatch.setattr("sys.stdout", full)
        clean(step, root_of(step), [], dryrun=False)
    assert not step.receipt.exists()
