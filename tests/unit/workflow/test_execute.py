"""A run decides once about each step and reads each file once to digest it."""

import errno
import os
import threading
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tasks.child import launcher
from tasks.child.request import Request
from tasks.freshness import decide as decisions
from tasks.freshness import digests as digesting
from tasks.freshness.digests import RACY_SECONDS, Digests
from tasks.freshness.receipt import Receipt
from tasks.job import sha256
from tasks.paths import failed_report, sockets
from tasks.pipeline.step import Skip, Step
from tasks.workflow import doit_freshness, why
from tasks.workflow.doit_freshness import ContentChecker, UpToDate
from tasks.workflow.execute import execute, refuse_skipped
from tasks.workflow.step_status import StepStatus
from tests.support.project import HANGS_AFTER_SECONDS


def chain(folder: Path) -> list[Step]:
    """Two steps, of which the second reads what the first writes."""
    source = folder / "in.txt"
    source.write_text("input ")
    while time.time() - source.stat().st_ctime <= RACY_SECONDS:
        time.sleep(RACY_SECONDS)
    paths = [source, folder / "a" / "one.bin", folder / "b" / "two.bin"]
    return [
        Step("write", output.stem, "tests.support.worker_actions:write", {"in": read}, {"out": output}, {"text": "x"})
        for read, output in pairwise(paths)
    ]


def run(steps: list[Step], root: Path, digests: Digests) -> list[StepStatus]:
    """What doit does with each step: ask whether it is up to date, act, and note the digests of its inputs."""
    statuses = [StepStatus(step) for step in steps]
    for status in statuses:
        if not UpToDate(status, digests)():
            assert execute(status, root, digests) is None
        for path in status.step.inputs.values():
            ContentChecker(digests).get_state(str(path), None)
    return statuses


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often this process decides about a step and digests a file."""
    found: Counter[str] = Counter()
    decide, sha256 = decisions.decide, digesting.sha256

    def deciding(step: Step, digests: Digests, **more: Any) -> decisions.Decision:
        found[step.task] += 1
        return decide(step, digests, **more)

    def hashing(path: Path) -> str:
        found[path.name] += 1
        return sha256(path)

    monkeypatch.setattr(doit_freshness, "decide", deciding)
    monkeypatch.setattr(digesting, "sha256", hashing)
    return found


def test_each_step_is_decided_once_and_each_file_digested_once(tmp_path: Path, counted: Counter[str]) -> None:
    steps = chain(tmp_path)
    statuses = run(steps, tmp_path, Digests(tmp_path / "memo.json"))
    assert [status.outcome.status for status in statuses if status.outcome] == ["built", "built"]
    assert counted == {"write:one": 1, "write:two": 1, "in.txt": 1}  # outputs were digested by those who wrote them


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in which every input is a large file."""
    monkeypatch.setattr(digesting, "LARGE_BYTES", 1)
    monkeypatch.setattr(doit_freshness, "is_run", lambda: True)


@pytest.mark.usefixtures("all_large")
def test_large_inputs_of_a_step_that_will_run_are_digested_meanwhile_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Counter[str]
) -> None:
    step, _ = chain(tmp_path)
    started, digests, hashing = threading.Event(), Digests(tmp_path / "memo.json"), digesting.sha256
    monkeypatch.setattr(digesting, "sha256", lambda path: started.wait(HANGS_AFTER_SECONDS) and hashing(path))
    run_in_child = launcher.run_in_child
    monkeypatch.setattr(launcher, "run_in_child", lambda *given: (started.set(), run_in_child(*given))[1])
    run([step], tmp_path, digests)
    assert counted == {"write:one": 1, "in.txt": 1}
    receipt = Receipt.read(step.receipt)
    assert receipt is not None
    assert receipt.ingredients.inputs == {"in": sha256(step.inputs["in"])}
    digests.save()
    assert decisions.decide(step, Digests(digests.memo)).fresh


@pytest.mark.usefixtures("all_large")
def test_a_large_input_that_changes_before_its_step_begins_fails_it(tmp_path: Path) -> None:
    step, digests = chain(tmp_path)[0], Digests(tmp_path / "memo.json")
    status = StepStatus(step)
    assert not UpToDate(status, digests)()
    step.inputs["in"].write_text("other ")
    failure = execute(status, tmp_path, digests)
    assert failure is not None
    assert failure.get_msg().startswith("an input changed")
    assert not step.receipt.exists()


def test_the_next_run_decides_once_and_digests_nothing(tmp_path: Path, counted: Counter[str]) -> None:
    steps, digests = chain(tmp_path), Digests(tmp_path / "memo.json")
    run(steps, tmp_path, digests)
    digests.save()
    counted.clear()
    statuses = run(steps, tmp_path, Digests(tmp_path / "memo.json"))
    assert [status.outcome for status in statuses] == [None, None]
    assert counted == {"write:one": 1, "write:two": 1}


def test_a_step_whose_receipt_shows_that_it_is_done_is_reused_without_a_child(tmp_path: Path) -> None:
    steps, digests = chain(tmp_path), Digests(tmp_path / "memo.json")
    run(steps, tmp_path, digests)
    status = StepStatus(steps[0])
    UpToDate(status, digests)()
    assert execute(status, tmp_path, digests) is None
    assert status.outcome is not None
    assert status.outcome.status == "reused"


def test_a_receipt_of_another_step_makes_none_fresh(tmp_path: Path) -> None:
    steps, digests = chain(tmp_path), Digests(tmp_path / "memo.json")
    run(steps, tmp_path, digests)
    renamed = replace(steps[0], name="other")  # reports and metadata have the name
    assert decisions.decide(renamed, digests).reasons == ("its receipt is that of write:one",)
    assert [status.outcome.status for status in run([renamed], tmp_path, digests) if status.outcome] == ["built"]


@pytest.mark.parametrize("selected", [False, True])
def test_a_skipped_step_fails_only_where_it_was_asked_for(tmp_path: Path, selected: bool) -> None:
    skip = Skip("no GPU", "add one", error_if_selected=selected)
    step = Step("write", "one", "a:run", {}, {"out": tmp_path / "x"}, {}, skip=skip)
    assert (refuse_skipped(step) is not None) == selected


@pytest.mark.parametrize(
    ("event", "part"), [("remove", "was removed or renamed"), ("rename_its_folder", "was removed"), ("edit", "changed")]
)
@pytest.mark.parametrize("size", ["small", "large"])
def test_an_input_that_is_lost_while_its_step_runs_is_reported_as_one_that_changed(
    tmp_path: Path, event: str, part: str, size: str, request: pytest.FixtureRequest
) -> None:
    source, digests = tmp_path / "model" / "in.txt", Digests(tmp_path / "memo.json")
    source.parent.mkdir()
    source.write_text("input ")
    if size == "large":
        request.getfixturevalue("all_large")
        time.sleep(2 * RACY_SECONDS)
    action = "tests.support.worker_actions:lose_the_input"
    status = StepStatus(Step("write", "x", action, {"in": source}, {"out": tmp_path / "a" / "x"}, {"event": event}))
    assert not UpToDate(status, digests)()
    failure = execute(status, tmp_path, digests)
    assert failure is not None
    assert failure.get_msg().startswith(f"an input {part}")
    assert "Traceback" not in failure.get_msg()
    assert ContentChecker(digests).get_state(str(source), None) is None or event == "edit"


def test_a_file_that_may_not_be_read_any_more_fails_the_step_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(step: Step, *_: object, **__: object) -> decisions.Decision:
        raise PermissionError(13, "Permission denied", str(step.receipt.with_name("one.bin.data")))

    monkeypatch.setattr(doit_freshness, "decide", denied)
    monkeypatch.setattr(why, "decide", denied)
    step, digests = chain(tmp_path)[0], Digests(tmp_path / "memo.json")
    status = StepStatus(step)
    assert not UpToDate(status, digests)()
    failure = execute(status, tmp_path, digests)
    assert failure is not None
    message = f"{tmp_path}/a/one.bin.data: cannot be read (got Permission denied). Check its permissions."
    assert failure.get_msg().strip() == message
    why.explain([step], (), digests)
    assert message in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "cannot write: No space left on device"), (errno.ENOENT, "was removed while a run was using it")],
)
def test_a_disk_or_a_user_that_keeps_a_process_from_starting_is_named(
    tmp_path: Path, number: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Request, "write", failing)
    status = StepStatus(chain(tmp_path)[0])
    assert not UpToDate(status, Digests(tmp_path / "memo.json"))()
    failure = execute(status, tmp_path / "root", Digests(tmp_path / "memo.json"))
    assert failure is not None
    assert message in failure.get_msg()


def test_other_errors_of_the_system_stay_bugs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise OSError(errno.ENOENT, "a bug")

    sockets(tmp_path).mkdir(parents=True)
    monkeypatch.setattr(Request, "write", failing)
    status = StepStatus(chain(tmp_path)[0])
    UpToDate(status, Digests(tmp_path / "memo.json"))()
    with pytest.raises(FileNotFoundError, match="a bug"):
        execute(status, tmp_path, Digests(tmp_path / "memo.json"))


def with_verification(folder: Path) -> list[Step]:
    """A step that makes an artifact, and one that verifies it."""
    export, verify = chain(folder)
    artifact = export.outputs["out"]
    return [export, replace(verify, inputs={"artifact": artifact})]


def test_the_report_of_a_failure_goes_when_the_verification_succeeds_or_is_found_done(tmp_path: Path) -> None:
    steps, digests = with_verification(tmp_path), Digests(tmp_path / "memo.json")
    for outcomes in (["built", "built"], [None, "reused"]):
        failed = failed_report(steps[0].outputs["out"])
        failed.parent.mkdir(exist_ok=True)
        failed.write_text("{}")
        statuses = run(steps, tmp_path, digests)
        assert [status.outcome and status.outcome.status for status in statuses] == outcomes
        assert not failed.exists()


def test_it_goes_with_the_artifact_that_failed(tmp_path: Path) -> None:
    export, _ = with_verification(tmp_path)
    failed = failed_report(export.outputs["out"])
    failed.parent.mkdir()
    failed.write_text("{}")
    digests = Digests(tmp_path / "memo.json")
    run([export], tmp_path, digests)
    assert not failed.exists()
    failed.write_text("{}")
    run([export], tmp_path, digests)
    assert failed.exists()  # nothing was built


@pytest.mark.parametrize(("is_run", "expected"), [(True, [True, False]), (False, [False, False])])
def test_what_a_build_needs_is_prepared_where_one_is_certain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_run: bool, expected: list[bool]
) -> None:
    """That is in a run, for a step without a receipt."""
    prepared: list[Path] = []
    monkeypatch.setattr(doit_freshness, "is_run", lambda: is_run)
    monkeypatch.setattr(launcher, "warm_up", prepared.append)
    step, digests = chain(tmp_path)[0], Digests(tmp_path / "memo.json")
    found = []
    for _ in range(2):
        prepared.clear()
        run([step], tmp_path, digests)
        found.append(prepared == [tmp_path])
    assert found == expected
