"""What the lines of a run name beside the steps."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from doit.task import Task

from tasks.child.outcome import Outcome
from tasks.freshness.decide import decide, ingredients
from tasks.freshness.digests import Digests
from tasks.freshness.receipt import Receipt
from tasks.job import sha256
from tasks.pipeline.step import Step
from tasks.workflow.reporter import Reporter
from tasks.workflow.step_status import StepStatus

REMARKS = ["not tried: call.pt: batch=1, the artifact takes 2", "as good as fp16 can be"]


def status(folder: Path) -> StepStatus:
    report = folder / "x.json"
    inputs = {"artifact": folder / "x.onnx", "recorded 1": folder / "call.pt"}
    return StepStatus(Step("verify_onnx", "demo/x", "a:run", inputs, {"report": report}, {}))


@pytest.mark.parametrize("result", ["built", "reused"])
def test_remarks_are_on_the_line_of_their_step(tmp_path: Path, result: str) -> None:
    one, out = status(tmp_path), io.StringIO()
    one.outcome = Outcome(result, remarks=REMARKS)
    Reporter(out, {}).add_success(Task(one.step.task, None, meta={"status": one}))
    assert out.getvalue().endswith(f"; {REMARKS[0]}; {REMARKS[1]}\n")


def without_reader() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize(
    "device", [without_reader, lambda: os.open("/dev/full", os.O_WRONLY)], ids=["no reader", "disk full"]
)
def test_a_report_that_cannot_be_written_stops_nothing(tmp_path: Path, device: Callable[[], int]) -> None:
    one = status(tmp_path)
    one.outcome = Outcome("built")
    with os.fdopen(device(), "w") as out:
        reporter = Reporter(out, {})
        for _ in range(2):
            reporter.add_success(Task(one.step.task, None, meta={"status": one}))


def test_they_are_there_again_when_a_run_finds_the_step_up_to_date(tmp_path: Path) -> None:
    one, out = status(tmp_path), io.StringIO()
    for path in (*one.step.inputs.values(), *one.step.outputs.values()):
        path.touch()
    outputs = {"x.json": {"sha256": sha256(one.step.outputs["report"]), "size": 0}}
    digests = Digests(tmp_path / "memo.json")
    now = ingredients(one.step, digests, modules=())
    Receipt(one.step.task, now, outputs, {"remarks": REMARKS}, {}).write(one.step.receipt)
    one.decision = decide(one.step, digests)
    assert one.decision.fresh
    Reporter(out, {}).skip_uptodate(Task(one.step.task, None, meta={"status": one}))
    assert out.getvalue().endswith(f"{REMARKS[0]}; {REMARKS[1]}\n")
