"""The order in which steps that run side by side start: first what the longest chain of steps waits for."""

from collections.abc import Mapping, Sequence
from functools import cache

from tasks.freshness.receipt import Receipt
from tasks.pipeline.step import Step

# Seconds of a kind of step that was never run here, of a full-size estimator on two cores: only their ratios count.
USUAL_SECONDS: Mapping[str, float] = {
    "train": 60,
    "record": 30,
    "export_onnx": 20,
    "verify_onnx": 40,
    "preflight": 30,
    "verify_jit": 30,
    "export_plan": 300,
    "verify_plan": 40,
    "verify_vllm": 60,
}
OTHERS_SECONDS = 5.0


def longest_first(steps: Sequence[Step]) -> list[Step]:
    """Steps by the time from their start to the end of the last step that depends on them, the longest first."""
    makers = {path: step.task for step in steps for path in step.outputs.values()}
    needs = {step.task: {*step.after, *(makers.get(path, "") for path in step.inputs.values())} for step in steps}
    seconds = {step.task: 0.0 if step.skip else _seconds(step) for step in steps}

    @cache
    def to_the_end(task: str) -> float:
        return seconds[task] + max((to_the_end(other) for other, needed in needs.items() if task in needed), default=0)

    return sorted(steps, key=lambda step: -to_the_end(step.task))


def _seconds(step: Step) -> float:
    """What the step took when it last ran, or what its kind usually takes."""
    receipt = Receipt.read(step.receipt)
    taken = receipt.execution.get("seconds") if receipt else None
    return taken if isinstance(taken, int | float) else USUAL_SECONDS.get(step.stage, OTHERS_SECONDS)
