"""The order in which steps that run side by side start: first what the longest chain of steps waits for."""

from collections.abc import Mapping, Sequence

from tasks.freshness.receipt import Receipt
from tasks.pipeline.graph import needed_by
from tasks.pipeline.step import Step

# Seconds of a kind of step that was never run here: measured on a full-size estimator, on two idle cores without a GPU;
# a plan is a guess. Only their ratios count.
USUAL_SECONDS: Mapping[str, float] = {
    "train": 30,
    "record": 7,
    "export_onnx": 11,
    "verify_onnx": 25,
    "preflight": 11,
    "verify_jit": 12,
    "export_plan": 100,
    "verify_plan": 25,
    "verify_vllm": 30,
}
OTHERS_SECONDS = 2.0


def longest_first(wanted: Sequence[Step], steps: Sequence[Step]) -> list[Step]:
    """The wanted steps and those that they depend on, by the time until the last step that depends on them has ended.

    doit takes steps in the order in which a group names them, but one that is not named itself after all others.

    Args:
        steps: all steps, inputs before what reads them.
    """
    needs = needed_by(steps)
    chosen, to_the_end = {step.task for step in wanted}, dict.fromkeys(needs, 0.0)
    for step in reversed(steps):
        if step.task in chosen and not step.skip:
            chosen |= needs[step.task]
            to_the_end[step.task] += _seconds(step)
        for task in needs[step.task] & to_the_end.keys():
            to_the_end[task] = max(to_the_end[task], to_the_end[step.task])
    named = [step for step in steps if step in wanted or (step.task in chosen and not step.skip)]
    return sorted(named, key=lambda step: -to_the_end[step.task])


def _seconds(step: Step) -> float:
    """What the step took when it last ran, or what its kind usually takes."""
    receipt = Receipt.read(step.receipt)
    taken = receipt.execution.get("seconds") if receipt else None
    return taken if isinstance(taken, int | float) else USUAL_SECONDS.get(step.stage, OTHERS_SECONDS)
