"""The doctor reports what the last preflight found, and runs nothing."""

from pathlib import Path
from typing import Any

import pytest

from tasks.freshness.digests import Digests
from tasks.freshness.receipt import Ingredients, Receipt
from tasks.job import sha256
from tasks.pipeline.step import Step
from tasks.workflow import doctor

NEWER = "opset 23 is outside the table"


@pytest.fixture
def step(tmp_path: Path) -> Step:
    graph = tmp_path / "small.onnx"
    graph.write_text("graph")
    outputs = {"report": tmp_path / "small.json"}
    return Step("preflight", "demo/small", "tasks.actions.preflight.action:run", {"onnx": graph}, outputs, {})


def passed(step: Step, *, warnings: list[str]) -> None:
    """A receipt of a preflight that has passed."""
    step.outputs["report"].write_text("{}")
    report = step.outputs["report"]
    memory = [{"min": {"peak_mib": 0.5}, "max": {"peak_mib": 32.0}}, {"min": {"peak_mib": 1408.4}}]
    results: dict[str, Any] = {"warnings": warnings, "memory": memory}
    inputs = {role: sha256(path) for role, path in step.inputs.items()}
    outputs = {report.name: {"sha256": sha256(report), "size": report.stat().st_size}}
    Receipt(step.task, Ingredients(step.action, {}, inputs, {}, {}), outputs, results, {}).write(step.receipt)


@pytest.mark.parametrize("warnings", [[], [NEWER]])
def test_it_reports_warnings_and_the_largest_memory(step: Step, warnings: list[str], tmp_path: Path) -> None:
    passed(step, warnings=warnings)
    result = doctor.preflight_result(step, Digests(tmp_path / "memo.json"))
    assert "1,408 MiB" in result
    assert (NEWER in result) == bool(warnings)


def test_a_missing_or_stale_preflight_is_named_with_its_command(step: Step, tmp_path: Path) -> None:
    digests = Digests(tmp_path / "memo.json")
    assert f"doit {step.task}" in doctor.preflight_result(step, digests)
    passed(step, warnings=[])
    step.inputs["onnx"].write_text("another graph")
    assert f"doit {step.task}" in doctor.preflight_result(step, digests)
