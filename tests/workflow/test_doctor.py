"""The doctor reports what preflight found, warnings and memory included, not only that it passed."""

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


@pytest.mark.parametrize("warnings", [[], [NEWER], [NEWER, "another"]])
def test_the_verdict_has_every_warning_and_the_largest_memory(tmp_path: Path, warnings: list[str]) -> None:
    verdict = doctor.verdict(_tried(tmp_path, warnings=warnings))
    assert all(warning in verdict for warning in warnings)
    assert "1,408 MiB" in verdict
