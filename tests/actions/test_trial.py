"""One trial: when an artifact that is beyond its limits is given the benefit of more runs of the original."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from tasks.actions.inputs.generated import InputCase
from tasks.actions.verify.metrics import Metrics, metrics
from tasks.actions.verify.reference import Expected
from tasks.actions.verify.trial import RUNS_IN_DOUBT, tried
from tasks.runtimes.base import Dtypes, Shapes
from tasks.settings.component import ComponentSpec
from tests.support.onnx_jobs import small_component
from tests.support.steps import ESTIMATOR, steps_of

COMPONENT = ComponentSpec.from_params(small_component("Plain"))
LIMITS = steps_of("cosyvoice2", ESTIMATOR, "precision=fp16")["verify_onnx"].params["verify"]
EXACT = torch.linspace(-1, 1, 16_000).reshape(2, 8, 1000)


@dataclass
class Noisy:
    """An artifact whose output has errors of a given size."""

    error: float
    provider: str = "test"
    dtypes: Dtypes = field(default_factory=dict)
    shapes: Shapes = field(default_factory=dict)
    outputs: Dtypes = field(default_factory=dict)

    def __call__(self, inputs: object) -> tuple[Tensor, ...]:
        return (noisy(self.error),)


def noisy(error: float) -> Tensor:
    return EXACT + error * torch.randn(EXACT.shape, generator=torch.Generator().manual_seed(0))


def cost(error: float) -> dict[str, Metrics]:
    return {"y": metrics(noisy(error), EXACT, rtol=0, atol=0)}


def failures(
    error: float, *, once: float, again: Mapping[int, float], in_doubt: bool = True
) -> tuple[dict[str, list[str]], int]:
    """Of an artifact with errors of `error`, and how often the original was run again.

    Args:
        once: errors of a run of the original.
        again: those of the runs with other seeds, where they are others.
    """
    seeds: list[int] = []

    def cost_again(seed: int) -> dict[str, Metrics]:
        seeds.append(seed)
        return cost(again.get(seed, once))

    case = InputCase(0, {"batch": 2, "frames": 1000}, {"x": EXACT}, source="seeded")
    expected = Expected(case, case.inputs, lambda: {"y": EXACT}, cost(once), "", cost_again, 1.0)
    result = tried(expected, Noisy(error), component=COMPONENT, dtype=torch.float16, limits=LIMITS, in_doubt=in_doubt)
    return result["failures"], len(seeds)


LAST = RUNS_IN_DOUBT - 1


@pytest.mark.parametrize(
    ("error", "again", "in_doubt", "passes", "runs"),
    [
        (1e-4, {}, True, True, 0),  # no doubt
        (4e-4, {LAST: 4e-4}, True, True, RUNS_IN_DOUBT),  # a run of the original has errors as large
        (4e-4, {}, True, False, RUNS_IN_DOUBT),  # none has
        (4e-4, {LAST: 4e-4}, False, False, 0),  # another trial has failed already
        (4e-3, {}, True, False, 1),  # damage
        (4e-3, {LAST: 4e-3}, True, False, 1),  # damage that only luck would excuse
        (4e-3, {0: 4e-3}, True, True, 1),  # what every run in another order of summation shows
        (4e-3, {0: 1e-3, LAST: 4e-3}, True, True, RUNS_IN_DOUBT),  # of that and of luck
    ],
)
def test_a_trial_in_doubt_is_decided_by_more_runs_of_the_original(error, again, in_doubt, passes, runs):
    found, count = failures(error, once=1e-4, again=again, in_doubt=in_doubt)
    assert (found == {}) is passes
    assert count == runs
