"""What the longest chain waits for starts first."""

from collections.abc import Sequence
from pathlib import Path

from tasks.freshness.receipt import Receipt
from tasks.pipeline.step import Step
from tasks.workflow.schedule import longest_first
from tests.support.steps import all_steps_of
from tests.unit.workflow.test_side_by_side import step


def order(*steps: Step, wanted: Sequence[Step] = ()) -> list[str]:
    return [each.task for each in longest_first(wanted or steps, steps)]


def took(one: Step, seconds: float) -> None:
    receipt = Receipt.read(one.receipt)
    assert receipt is not None
    Receipt(one.task, receipt.ingredients, receipt.outputs, {}, {"seconds": seconds}).write(one.receipt)


def test_a_short_step_before_a_long_one_starts_before_one_of_medium_length(tmp_path: Path) -> None:
    short, medium = step(tmp_path, "short", peak=1), step(tmp_path, "medium", peak=1)
    long = step(tmp_path, "long", peak=1, reads=[short])
    for one, seconds in ((short, 1), (medium, 20), (long, 30)):
        took(one, seconds)
    assert order(medium, short, long) == ["export:short", "export:long", "export:medium"]


def test_equal_steps_keep_their_order(tmp_path: Path) -> None:
    assert order(*(step(tmp_path, name) for name in "bac")) == ["export:b", "export:a", "export:c"]


def test_before_a_first_run_recording_and_exports_start_before_what_nothing_waits_for(tmp_path: Path) -> None:
    steps = list(all_steps_of("cosyvoice2", artifacts=tmp_path).values())
    wanted = [one for one in steps if one.stage.startswith(("export", "verify"))]
    stages = [one.stage for one in longest_first(wanted, steps)]
    assert stages[0] == "export_onnx"
    assert stages.index("record") < stages.index("export_jit") < stages.index("verify_jit")
    assert "average" not in stages, "which is skipped"


def test_only_what_is_wanted_or_needed_for_it_is_named(tmp_path: Path) -> None:
    needed, other = step(tmp_path, "needed"), step(tmp_path, "other")
    wanted = step(tmp_path, "wanted", reads=[needed])
    assert order(needed, other, wanted, wanted=[wanted]) == ["export:needed", "export:wanted"]
