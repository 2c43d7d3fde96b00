"""When an artifact that is beyond its limits is given the benefit of more runs of the original."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.actions.inputs.generated import InputCase
from tasks.actions.verify.doubt import ELEMENTS, FEW_RUNS, MANY_RUNS, all_tried
from tasks.actions.verify.metrics import Metrics, metrics
from tasks.actions.verify.reference import Expected
from tasks.actions.verify.trial import tried
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


def expected_of(once: float, again: Mapping[int, float], seeds: list[int], *, x: Tensor = EXACT) -> Expected:
    """A trial whose original has errors of `once`, with some seeds others; the seeds it is run with are appended."""

    def cost_again(seed: int) -> dict[str, Metrics]:
        seeds.append(seed)
        return cost(again.get(seed, once))

    case = InputCase(0, {"batch": 2, "frames": 1000}, {"x": x}, source="seeded")
    return Expected(case, case.inputs, lambda: {"y": EXACT}, cost(once), "", cost_again, 1.0)


def tried_with(expected: Expected, error: float, runs: int) -> dict[str, Any]:
    return tried(expected, Noisy(error), component=COMPONENT, dtype=torch.float16, limits=LIMITS, runs=runs)


LAST = FEW_RUNS - 1


@pytest.mark.parametrize(
    ("error", "again", "most", "passes", "runs"),
    [
        (1e-4, {}, FEW_RUNS, True, 0),  # no doubt
        (4e-4, {LAST: 4e-4}, FEW_RUNS, True, FEW_RUNS),  # a run of the original has errors as large
        (4e-4, {}, FEW_RUNS, False, FEW_RUNS),  # none has
        (4e-4, {LAST: 4e-4}, 0, False, 0),
        (4e-1, {3: 4e-1}, FEW_RUNS, True, 4),  # luck can be worth any number of dB
        (4e-3, {0: 1e-3, 1: 4e-3}, FEW_RUNS, True, 2),
    ],
)
def test_a_trial_in_doubt_is_decided_by_more_runs_of_the_original(error, again, most, passes, runs):
    seeds: list[int] = []
    result = tried_with(expected_of(1e-4, again, seeds), error, most)
    assert (result["failures"] == {}) is passes
    assert seeds == list(range(runs))


SMALL = torch.zeros(2, 8, ELEMENTS // MANY_RUNS // 16)


@pytest.mark.parametrize(
    ("errors", "x", "at", "failed", "runs"),
    [
        ([1e-4] * 8, SMALL, 0, 0, [0] * 8),
        ([1e-4] * 7 + [4e-2], SMALL, MANY_RUNS - 1, 0, [0] * 7 + [MANY_RUNS]),  # rare in trials as in runs
        ([1e-4] * 6 + [4e-2] * 2, SMALL, 0, 0, [0] * 6 + [1, 1]),
        ([1e-4] * 7 + [4e-2], SMALL, MANY_RUNS, 1, [0] * 7 + [MANY_RUNS]),
        ([1e-4] * 7 + [4e-2], torch.cat([SMALL, SMALL]), MANY_RUNS, 1, [0] * 7 + [MANY_RUNS // 2]),
        ([1e-4] * 7 + [4e-2], torch.cat([SMALL] * 100), MANY_RUNS, 1, [0] * 7 + [FEW_RUNS]),  # long
        ([4e-2] * 8, SMALL, FEW_RUNS, 8, [FEW_RUNS] + [0] * 7),  # damage
        ([4e-2] * 8, SMALL, 0, 0, [1] * 8),  # an order of summation
    ],
)
def test_what_fails_in_few_trials_is_compared_with_many_runs(errors, x, at, failed, runs):
    seeds: list[list[int]] = [[] for _ in errors]
    expected = [expected_of(1e-4, {at: 4e-2}, each, x=x) for each in seeds]
    error_of = {id(each): error for each, error in zip(expected, errors, strict=True)}
    results = all_tried(expected, lambda each, most: tried_with(each, error_of[id(each)], most))
    assert sum(bool(result["failures"]) for result in results) == failed
    assert list(map(len, seeds)) == runs
