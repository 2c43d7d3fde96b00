"""The doctor tells what preflight found, warnings and memory included, not only that it passed."""

from pathlib import Path
from typing import Any

import pytest

from tasks.freshness.receipt import Ingredients, Receipt
from tasks.pipeline.step import Step
from tasks.workflow import doctor

NEWER = "opset 23 is outside 9 to 20"


def _tried(folder: Path, *, warnings: list[str]) -> Step:
    step = Step(
        "preflight", "demo/small", "tasks.actions.preflight.action:run", {}, {"report": folder / "small.json"}, {}
    )
    memory = [{"min": {"peak_mib": 0.5}, "max": {"peak_mib": 32.0}}, {"min": {"peak_mib": 1408.4}}]
    facts: dict[str, Any] = {"warnings": warnings, "memory": memory}
    Receipt(step.task, Ingredients(step.action, {}, {}, {}, {}), {}, facts, {}).write(step.receipt)
    return step


@pytest.mark.parametrize(
    ("warnings", "told"),
    [
        ([], "nothing speaks against a plan; activations take about 1,408 MiB at most"),
        ([NEWER], f"{NEWER}; activations take about 1,408 MiB at most"),
    ],
)
def test_the_verdict_has_warnings_and_memory(tmp_path: Path, warnings: list[str], told: str) -> None:
    assert doctor.verdict(_tried(tmp_path, warnings=warnings)) == told
