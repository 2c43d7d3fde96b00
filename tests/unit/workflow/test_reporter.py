"""What the lines of a run name beside the steps."""

import io
from pathlib import Path

from doit.task import Task

from tasks.child.outcome import Outcome
from tasks.freshness.receipt import Ingredients, Receipt
from tasks.pipeline.step import Step
from tasks.workflow.reporter import Reporter
from tasks.workflow.step_status import StepStatus

UNFIT = [f"call-{n}.pt: batch=1, the artifact takes 2" for n in range(5)]
NAMED = "not tried: call-0.pt: batch=1, the artifact takes 2; call-1.pt: batch=1, the artifact takes 2; call-2.pt"


def status(folder: Path) -> StepStatus:
    report = folder / "x.json"
    inputs = {"artifact": folder / "x.onnx", "recorded 1": folder / "call.pt"}
    return StepStatus(Step("verify_onnx", "demo/x", "a:run", inputs, {"report": report}, {}))


def test_recordings_that_could_not_be_tried_are_named_on_the_line_of_their_step(tmp_path: Path) -> None:
    one, out = status(tmp_path), io.StringIO()
    one.outcome = Outcome("built", left_out=UNFIT)
    Reporter(out, {}).add_success(Task(one.step.task, None, meta={"status": one}))
    assert NAMED in out.getvalue()
    assert out.getvalue().endswith("; and 2 more\n")


def test_they_are_named_again_by_a_run_that_finds_the_step_up_to_date(tmp_path: Path) -> None:
    one, out = status(tmp_path), io.StringIO()
    Receipt(one.step.task, Ingredients("a:run", {}, {}, {}, {}), {}, {"left_out": UNFIT}, {}).write(one.step.receipt)
    Reporter(out, {}).skip_uptodate(Task(one.step.task, None, meta={"status": one}))
    assert NAMED in out.getvalue()
