"""One request from lock to receipt: whatever happens, an artifact is whole and proven or not there at all."""

import json
import os
import py_compile
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tasks.child import worker
from tasks.child.launcher import run_in_child
from tasks.child.request import Request
from tasks.child.worker import execute
from tasks.freshness.digests import AWAITED, stamps
from tasks.freshness.receipt import Ingredients, Receipt
from tasks.job import Job, sha256
from tests.support.project import HANGS_AFTER_SECONDS

FAILURES = [
    ("fail_for_the_user", "failed", "the tensor is not finite"),
    ("crash", "crashed", "KeyError: 'a bug'"),
    ("write_nothing", "crashed", "out.bin"),
    ("fill_the_disk", "failed", "No space left on device"),
    ("fill_the_disk_as_torch_says_it", "failed", "artifacts=DIR"),
]


def request(folder: Path, action: str = "write", **more: Any) -> Request:
    source = folder / "in.txt"
    source.write_text("input ")
    params = more.pop("params", {"text": "text"})
    job = Job(
        "stage:name",
        f"tests.support.worker_actions:{action}",
        {"in": source},
        {"out": folder / "a" / "out.bin"},
        params,
    )
    return Request(
        job=job,
        receipt=folder / "a" / "out.bin.receipt.json",
        lock=folder / "lock",
        log=folder / "log",
        memo=folder / "memo.json",
        ingredients=Ingredients(job.action, params, {"in": sha256(source)}, {}, {}),
        **more,
    )


def written(request: Request) -> Path:
    """The file that the launcher is given."""
    file = request.lock.with_name("request.json")
    request.write(file)
    return file


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "a").iterdir())


def test_a_built_step_leaves_the_artifact_and_its_receipt_and_nothing_else(tmp_path: Path) -> None:
    outcome = execute(request(tmp_path))
    assert outcome.status == "built"
    assert (tmp_path / "a" / "out.bin").read_text() == "input text"
    assert left_in(tmp_path) == ["out.bin", "out.bin.receipt.json"]


def test_a_digest_that_the_action_has_computed_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = request(tmp_path, "write_with_digest")
    monkeypatch.setattr(worker, "sha256", None)
    outcome = execute(one)
    receipt = Receipt.read(one.receipt)
    assert outcome.outputs["out.bin"].sha256 == sha256(tmp_path / "a" / "out.bin")
    assert receipt is not None
    assert receipt.outputs["out.bin"]["sha256"] == outcome.outputs["out.bin"].sha256


def test_another_step_may_remove_the_folder_of_private_folders_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, make, removed = request(tmp_path), Path.mkdir, []

    def make_and_lose(path: Path, *args: Any, **more: Any) -> None:
        make(path, *args, **more)
        if path == one.workdir.parent and len(removed) < 3:
            removed.append(path)
            replace(one, receipt=one.receipt.with_name("other.receipt.json")).clear_workdir()

    monkeypatch.setattr(Path, "mkdir", make_and_lose)
    assert execute(one).status == "built"
    assert len(removed) == 3


def test_the_private_folder_is_gone_before_the_receipt_says_that_the_step_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    write = Receipt.write
    monkeypatch.setattr(Receipt, "write", lambda self, path: (seen.append(left_in(tmp_path)), write(self, path)))
    execute(request(tmp_path))
    assert seen == [["out.bin"]]


def test_gpus_are_numbered_by_bus_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    execute(request(tmp_path, "tell_the_order_of_gpus"))
    receipt = Receipt.read(tmp_path / "a" / "out.bin.receipt.json")
    assert receipt is not None
    assert receipt.results == {"order": "PCI_BUS_ID"}


def test_the_receipt_lists_what_went_in_and_what_came_out(tmp_path: Path) -> None:
    execute(request(tmp_path))
    receipt = Receipt.read(tmp_path / "a" / "out.bin.receipt.json")
    assert receipt is not None
    assert replace(receipt.ingredients, code={}) == request(tmp_path).ingredients
    assert "tests.support.worker_actions" in receipt.ingredients.code
    assert receipt.outputs == {"out.bin": {"sha256": sha256(tmp_path / "a" / "out.bin"), "size": 10}}
    assert receipt.results == {"length": 10}
    assert receipt.execution["peak_memory"] > 0
    assert receipt.execution["read"] == {"in": str(tmp_path / "in.txt")}


@pytest.mark.parametrize(("action", "status", "message"), FAILURES)
def test_a_failure_is_reported_and_leaves_nothing_half_written(
    tmp_path: Path, action: str, status: str, message: str
) -> None:
    outcome = execute(request(tmp_path, action))
    assert outcome.status == status
    assert message in outcome.message
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("action", [action for action, _, _ in FAILURES])
def test_a_failure_keeps_the_artifact_that_was_there(tmp_path: Path, action: str) -> None:
    execute(request(tmp_path))
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    execute(request(tmp_path, action, always=True))
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


def test_an_artifact_that_another_run_has_just_built_is_reused(tmp_path: Path) -> None:
    execute(request(tmp_path))
    assert execute(request(tmp_path)).status == "reused"


@pytest.mark.parametrize("damage", ["truncate", "edit", "delete", "receipt"])
def test_a_damaged_artifact_is_never_reused(tmp_path: Path, damage: str) -> None:
    execute(request(tmp_path))
    artifact, receipt = tmp_path / "a" / "out.bin", tmp_path / "a" / "out.bin.receipt.json"
    {
        "truncate": lambda: artifact.write_text("in"),
        "edit": lambda: artifact.write_text("INPUT text"),
        "delete": artifact.unlink,
        "receipt": lambda: receipt.write_text(receipt.read_text()[:40]),
    }[damage]()
    assert execute(request(tmp_path)).status == "built"
    assert artifact.read_text() == "input text"


def test_side_files_are_put_beside_the_artifact_and_vouched_for(tmp_path: Path) -> None:
    execute(request(tmp_path, "write_with_side_file"))
    receipt = Receipt.read(tmp_path / "a" / "out.bin.receipt.json")
    assert receipt is not None
    assert set(receipt.outputs) == {"out.bin", "out.bin.data"}


def test_a_side_file_that_is_no_longer_made_goes_away(tmp_path: Path) -> None:
    execute(request(tmp_path, "write_with_side_file"))
    execute(request(tmp_path, "write"))
    assert left_in(tmp_path) == ["out.bin", "out.bin.receipt.json"]


def folder_request(root: Path, *names: str, **more: Any) -> Request:
    """A request whose outputs are the files of one folder."""
    one = request(root, **more)
    outputs = {name: root / "a" / "unit" / name for name in names}
    return replace(one, job=replace(one.job, outputs=outputs), receipt=root / "a" / "unit.receipt.json")


def test_a_folder_is_put_in_place_as_one_with_its_receipt_beside_it(tmp_path: Path) -> None:
    assert execute(folder_request(tmp_path, "one", "two")).status == "built"
    receipt = Receipt.read(tmp_path / "a" / "unit.receipt.json")
    assert receipt is not None
    assert set(receipt.outputs) == {"unit/one", "unit/two"}
    assert left_in(tmp_path) == ["unit", "unit.receipt.json"]
    assert execute(folder_request(tmp_path, "one", "two")).status == "reused"


def test_a_folder_that_is_made_again_holds_nothing_of_what_was_there(tmp_path: Path) -> None:
    execute(folder_request(tmp_path, "one", "two"))
    execute(folder_request(tmp_path, "one", always=True))
    assert [path.name for path in (tmp_path / "a" / "unit").iterdir()] == ["one"]
    assert left_in(tmp_path) == ["unit", "unit.receipt.json"]


def test_files_of_the_user_are_never_removed(tmp_path: Path) -> None:
    execute(folder_request(tmp_path, "one", "two"))
    mine = tmp_path / "a" / "unit" / "mine" / "three"
    mine.parent.mkdir()
    mine.touch()
    outcome = execute(folder_request(tmp_path, "one", always=True))
    assert outcome.status == "failed"
    assert "unit: has files that were not made here" in outcome.message
    assert "(got unit/mine/three)" in outcome.message
    assert mine.exists()


def test_a_folder_in_the_place_of_an_artifact_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "a" / "out.bin" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.touch()
    outcome = execute(request(tmp_path))
    assert "out.bin: is a folder in the place of a file" in outcome.message
    assert mine.exists()


def test_a_damaged_file_in_a_folder_is_noticed(tmp_path: Path) -> None:
    execute(folder_request(tmp_path, "one", "two"))
    (tmp_path / "a" / "unit" / "two").write_text("edited")
    assert execute(folder_request(tmp_path, "one", "two")).status == "built"


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "a" / ".partial" / "out.bin").mkdir(parents=True)
    (tmp_path / "a" / ".partial" / "out.bin" / "junk").write_text("half")
    execute(request(tmp_path))
    assert left_in(tmp_path) == ["out.bin", "out.bin.receipt.json"]


def test_a_run_of_a_step_that_another_run_has_locked_says_that_it_waits_and_then_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = FileLock(tmp_path / "lock")
    held.acquire()
    outcomes: list[str] = []
    waits = threading.Event()
    monkeypatch.setattr("tasks.progress.report", lambda _: waits.set())
    run = threading.Thread(target=lambda: outcomes.append(execute(request(tmp_path)).status), daemon=True)
    run.start()
    assert waits.wait(HANGS_AFTER_SECONDS)
    assert not outcomes
    held.release()
    run.join(HANGS_AFTER_SECONDS)
    assert outcomes == ["built"]


def test_a_child_that_is_killed_is_reported_with_its_signal_and_its_log(tmp_path: Path) -> None:
    outcome = run_in_child(written(request(tmp_path, "die")))
    assert outcome.status == "failed"
    assert "SIGKILL" in outcome.message
    assert str(tmp_path / "log") in outcome.message
    assert not (tmp_path / "a" / "out.bin").exists()


@pytest.mark.parametrize("limit", ["ulimit -v 500000", "exec 2>&-"], ids=["no memory for a server", "no stderr"])
def test_a_child_that_cannot_be_started_is_reported_and_closed_streams_are_no_matter(
    tmp_path: Path, limit: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from pathlib import Path; from tests.unit.child.test_worker import request, written; "
        "from tasks import progress; from tasks.child.launcher import run_in_child\n"
        "progress.prepare_streams()\n"
        "if __name__ == '__main__': outcome = run_in_child(written(request(Path(sys.argv[1])))); "
        "print(outcome.status, outcome.message)"
    )
    command = f"{limit}; {sys.executable} {script} {tmp_path}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    expected = "failed no process could be started" if "ulimit" in limit else "built "
    assert done.stdout.startswith(expected), done.stderr


def test_running_out_of_memory_is_reported(tmp_path: Path) -> None:
    outcome = execute(request(tmp_path, "run_out_of_memory"))
    assert outcome.status == "failed"
    assert "stage:name: there is not enough memory" in outcome.message


def test_what_libraries_print_goes_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_in_child(written(request(tmp_path, "chatter"))).status == "built"
    assert "chatter" not in "".join(capfd.readouterr())
    assert (tmp_path / "log").read_text() == "chatter on stdout\nchatter on stderr\n"


def test_a_step_can_be_run_again_by_hand_from_its_request(tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    request(tmp_path).write(file)
    assert Request.read(file) == request(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tasks.child.worker", file], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout[:5]) == (0, "built")


def test_a_failed_step_run_by_hand_ends_with_code_1_and_the_message(tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    request(tmp_path, "fail_for_the_user").write(file)
    done = subprocess.run(
        [sys.executable, "-m", "tasks.child.worker", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert FAILURES[0][2] in done.stderr


@pytest.mark.parametrize("event", ["write_another", "replace_and_put_back", "link_to_another_and_back"])
def test_an_input_that_was_another_one_while_the_step_ran_leaves_no_receipt(tmp_path: Path, event: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "in.txt").write_text("input ")
    given = request(tmp_path, "lose_the_input", params={"event": event})
    job = replace(given.job, inputs={"in": tmp_path / "link" / "in.txt"})
    outcome = execute(replace(given, job=job))
    assert outcome.status == "failed"
    assert "in.txt: an input changed while the step was running" in outcome.message
    assert not (tmp_path / "a").exists() or not left_in(tmp_path)


@pytest.mark.parametrize("built", [True, False], ids=["built before", "not built"])
def test_an_input_that_has_changed_since_the_step_was_chosen_is_not_taken_for_the_old_one(
    tmp_path: Path, built: bool
) -> None:
    given = request(tmp_path)
    if built:
        assert execute(given).status == "built"
    given.job.inputs["in"].write_text("other ")
    outcome = execute(given)
    assert outcome.status == "failed"
    assert "in.txt: an input has changed since this step was chosen to run" in outcome.message


def awaiting(given: Request) -> Request:
    """The request of a step that was chosen to run before its input was digested."""
    awaited = {role: stamps(path) for role, path in given.job.inputs.items()}
    return replace(given, ingredients=replace(given.ingredients, inputs={"in": AWAITED}), awaited=awaited)


def digests_in(receipt: Path) -> dict[str, str]:
    read = Receipt.read(receipt)
    assert read is not None
    return read.ingredients.inputs


def test_a_digest_that_was_not_known_when_the_step_was_chosen_is_in_the_receipt(tmp_path: Path) -> None:
    given = awaiting(request(tmp_path))
    assert run_in_child(written(given), lambda: {"in": "0" * 64}).status == "built"
    assert digests_in(given.receipt) == {"in": "0" * 64}  # the parent's
    assert execute(replace(given, always=True)).status == "built"  # by hand
    assert digests_in(given.receipt) == {"in": sha256(given.job.inputs["in"])}
    assert execute(given).status == "reused"


def test_an_action_that_asks_for_a_digest_waits_for_it(tmp_path: Path) -> None:
    given = awaiting(request(tmp_path, "tell_the_digest"))
    assert run_in_child(written(given), lambda: {"in": "0" * 64}).status == "built"
    receipt = Receipt.read(given.receipt)
    assert receipt is not None
    assert receipt.results == {"digest": "0" * 64}


def test_a_child_that_dies_while_its_parent_digests_is_reported(tmp_path: Path) -> None:
    given = awaiting(request(tmp_path, "ask_and_die"))

    def dead() -> dict[str, str]:
        while not (tmp_path / "a" / ".partial" / "out.bin" / "out.bin").exists():
            time.sleep(0.02)
        time.sleep(0.2)  # either way of noticing it is one
        return {"in": "0" * 64}

    outcome = run_in_child(written(given), dead)
    assert outcome.status == "failed"
    assert "SIGKILL" in outcome.message
    assert not left_in(tmp_path)


@pytest.mark.parametrize("event", ["write_another", "replace_and_put_back"])
def test_an_awaited_input_that_was_another_one_while_the_step_ran_leaves_no_receipt(tmp_path: Path, event: str) -> None:
    given = awaiting(request(tmp_path, "lose_the_input", params={"event": event}))
    outcome = execute(given, lambda: {"in": "0" * 64})
    assert "in.txt: an input changed while the step was running" in outcome.message
    assert not left_in(tmp_path)


def test_an_awaited_input_that_has_changed_since_the_step_was_chosen_is_noticed(tmp_path: Path) -> None:
    given = awaiting(request(tmp_path))
    given.job.inputs["in"].write_text("another ")
    outcome = execute(given)
    assert "in.txt: an input has changed since this step was chosen to run" in outcome.message


def test_own_code_is_never_taken_from_cached_bytecode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "with_old_bytecode"
    package.mkdir()
    code = "def run(job):\n    job.outputs['out'].write_text('{}')\n    return {{}}\n"
    for text in ("old", "new"):  # of one size and one time, as in an image that is built to be reproducible
        (package / "action.py").write_text(code.format(text))
        os.utime(package / "action.py", (1e9, 1e9))
        if text == "old":
            py_compile.compile(str(package / "action.py"))
    monkeypatch.syspath_prepend(tmp_path)
    given = request(tmp_path)
    job = replace(given.job, action="with_old_bytecode.action:run")
    assert run_in_child(written(replace(given, job=job))).status == "built"
    assert job.outputs["out"].read_text() == "new"


def test_python_files_in_the_current_folder_are_no_modules(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("queue", "random", "struct", "torch", "selectors"):
        (folder / f"{name}.py").write_text("raise SystemExit('code of a model folder ran')")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from pathlib import Path; from tests.unit.child.test_worker import request, written; "
        "from tasks.child.launcher import run_in_child\n"
        "if __name__ == '__main__': print(run_in_child(written(request(Path(sys.argv[1])))).status)"
    )
    done = subprocess.run([sys.executable, script, tmp_path], cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout == "built\n", done.stderr


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_child_ends_with_its_parent(tmp_path: Path, kind: signal.Signals) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.unit.child.test_worker import request, written; "
        "from tasks.child.launcher import run_in_child\n"
        "if __name__ == '__main__': run_in_child(written(request(Path(sys.argv[1]), 'sleep_long')))"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, tmp_path], stderr=subprocess.DEVNULL)
    partial = tmp_path / "a" / ".partial" / "out.bin" / "out.bin"
    while not partial.exists():
        assert parent.poll() is None
        time.sleep(0.02)
    os.kill(parent.pid, kind)
    parent.wait(HANGS_AFTER_SECONDS)
    lock = FileLock(tmp_path / "lock")
    lock.acquire(timeout=HANGS_AFTER_SECONDS)  # held by the child for as long as it lives
    lock.release()
    assert not (tmp_path / "a" / "out.bin").exists()


def test_receipts_are_sorted_json_that_ends_in_a_newline(tmp_path: Path) -> None:
    execute(request(tmp_path))
    text = (tmp_path / "a" / "out.bin.receipt.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
