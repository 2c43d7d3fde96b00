"""Steps at once: memory decides when one starts, and what can run beside it how many cores it has."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tasks import progress
from tasks.child.outcome import Outcome
from tasks.freshness.receipt import Ingredients, Receipt
from tasks.pipeline.step import Skip, Step
from tasks.workflow import side_by_side
from tasks.workflow.side_by_side import USUAL_BYTES, SideBySide
from tasks.workflow.step_status import StepStatus
from tests.support.project import HANGS_AFTER_SECONDS


def step(folder: Path, name: str, *, stage: str = "export", peak: int = 0, reads: Sequence[Step] = ()) -> Step:
    """A step; with a peak, one that has a receipt."""
    inputs = {each.name: path for each in reads for path in each.outputs.values()}
    made = Step(stage, name, "module:run", inputs, {"out": folder / f"{stage}.{name}"}, {})
    if peak:
        outputs = {f"{stage}.{name}": {"sha256": "0" * 64, "size": 1}}
        Receipt(made.task, Ingredients("module:run", {}, {}, {}, {}), outputs, {}, {"peak_memory": peak}).write(
            made.receipt
        )
    return made


class InThread:
    """A step that is admitted in a thread of its own and runs until it is told to end."""

    def __init__(self, together: SideBySide, step: Step) -> None:
        self.runs, self.may_end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(together, step), daemon=True)
        self._thread.start()

    def _run(self, together: SideBySide, step: Step) -> None:
        with together.admitted(step):
            self.runs.set()
            self.may_end.wait(HANGS_AFTER_SECONDS)

    def end(self) -> None:
        self.may_end.set()
        self._thread.join(HANGS_AFTER_SECONDS)


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> "Lines":
    lines = Lines()
    monkeypatch.setattr(progress, "report", lines.add)
    return lines


class Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.came = threading.Event()

    def add(self, line: str) -> None:
        self.lines.append(line)
        self.came.set()


def test_a_step_alone_runs_whatever_it_takes(tmp_path: Path, reported: Lines) -> None:
    with SideBySide(available=lambda: 1).admitted(step(tmp_path, "large", peak=10**12)):
        assert reported.lines == []


def test_steps_that_fit_run_at_once(tmp_path: Path, reported: Lines) -> None:
    together = SideBySide(available=lambda: 5 * 10**9)
    with together.admitted(step(tmp_path, "a", peak=3 * 10**9)), together.admitted(step(tmp_path, "b", peak=2 * 10**9)):
        assert reported.lines == []


@pytest.mark.parametrize(("limit", "available"), [(float("inf"), 4 * 10**9), (4 * 10**9, 10**12)])
def test_a_step_that_does_not_fit_says_so_and_starts_when_another_ends(
    tmp_path: Path, reported: Lines, limit: float, available: int
) -> None:
    together = SideBySide(limit=limit, available=lambda: available)
    first = InThread(together, step(tmp_path, "a", peak=3 * 10**9))
    assert first.runs.wait(HANGS_AFTER_SECONDS)
    second = InThread(together, step(tmp_path, "b", peak=2 * 10**9))
    assert reported.came.wait(HANGS_AFTER_SECONDS)
    assert not second.runs.is_set()
    assert reported.lines == ["export:b waits: it takes about 2.0 GB, what runs 3.0 GB, and there are 4.0 GB"]
    first.end()
    assert second.runs.wait(HANGS_AFTER_SECONDS)
    second.end()


def test_many_steps_of_which_no_two_fit_all_come_to_their_end(tmp_path: Path, reported: Lines) -> None:
    together = SideBySide(available=lambda: 1)
    steps = [InThread(together, step(tmp_path, str(k), peak=10)) for k in range(8)]
    for each in steps:
        each.may_end.set()
    assert all(each.runs.wait(HANGS_AFTER_SECONDS) for each in steps)


def test_a_step_that_fails_makes_room(tmp_path: Path, reported: Lines) -> None:
    together = SideBySide(available=lambda: 1)
    with pytest.raises(OSError, match="gone"), together.admitted(step(tmp_path, "a", peak=10)):
        raise OSError("gone")
    with together.admitted(step(tmp_path, "b", peak=10)):
        assert reported.lines == []


@pytest.mark.parametrize(
    ("stage", "peak", "expected"),
    [("export", 10**9, "1.0 GB"), ("export", 0, "7.0 GB"), ("verify", 0, f"{USUAL_BYTES / 1e9:.1f} GB")],
    ids=["its own last run", "the largest of its kind", "nothing is known"],
)
def test_what_a_step_takes_is_what_receipts_say(
    tmp_path: Path, reported: Lines, stage: str, peak: int, expected: str
) -> None:
    others = [StepStatus(step(tmp_path, "x", peak=5 * 10**9)), StepStatus(step(tmp_path, "y", peak=7 * 10**9))]
    together = SideBySide(others, available=lambda: 1)
    with together.admitted(others[0].step):
        waiting = InThread(together, step(tmp_path, "z", stage=stage, peak=peak))
        assert reported.came.wait(HANGS_AFTER_SECONDS)
    waiting.end()
    assert f"takes about {expected}," in reported.lines[0]


def test_a_damaged_receipt_tells_nothing(tmp_path: Path, reported: Lines) -> None:
    one = step(tmp_path, "a", peak=10**9)
    one.receipt.write_text(one.receipt.read_text().replace(str(10**9), '"much"'))
    with SideBySide(available=lambda: 1).admitted(one):
        assert reported.lines == []


@pytest.mark.parametrize(
    ("at_once", "other", "expected"),
    [
        (0, "independent", 8),
        (2, "independent", 4),
        (2, "waits for it", 8),
        (2, "has ended", 8),
        (2, "cannot be done", 8),
        (16, "independent", 1),
    ],
)
def test_a_step_has_all_cores_where_nothing_can_run_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, other: str, expected: int
) -> None:
    monkeypatch.setattr(side_by_side, "available_cores", lambda: 8)
    monkeypatch.setattr(side_by_side, "run_options", lambda: {"num_process": at_once})
    one = step(tmp_path, "one")
    second = StepStatus(step(tmp_path, "other", reads=[one] if other == "waits for it" else []))
    if other == "has ended":
        second.outcome = Outcome("built")
    if other == "cannot be done":
        second = StepStatus(Step("s", "n", "m:r", {}, {"out": tmp_path / "n"}, {}, skip=Skip("no GPU", "find one")))
    together = SideBySide([StepStatus(one), second])
    with together.admitted(one):
        assert together.threads(one) == expected


def test_a_step_beside_another_has_its_share_of_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "available_cores", lambda: 8)
    monkeypatch.setattr(side_by_side, "run_options", lambda: {"num_process": 2})
    statuses = [StepStatus(step(tmp_path, name)) for name in "ab"]
    together = SideBySide(statuses, available=lambda: 10**12)
    with together.admitted(statuses[0].step), together.admitted(statuses[1].step):
        assert together.threads(statuses[1].step) == 4
