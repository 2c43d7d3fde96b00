"""The original's side of all trials of an artifact. What fp32 itself costs is measured where that is cheap.

A run in float64 takes more than twice as long as one in fp32, and most of a verification's time would go into those of
its few long trials. How far fp32 is from float64 depends little on the sizes as a rule, so that it is measured on a few
short trials; the others are compared with fp32 and have the limits of the nearest of these. An artifact that is beyond
them is compared with float64 there as well: no artifact fails by what was measured on another trial.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from tasks.actions.inputs.generated import InputCase
from tasks.actions.verify.reference import Expected
from tasks.progress import progress
from tasks.settings.component import ComponentSpec

CHEAP = 0.25  # of the elements of the longest trial's inputs


def originals(
    cases: Sequence[InputCase], run: Callable[..., Expected], *, component: ComponentSpec, dtype: torch.dtype
) -> list[Expected]:
    """Run the original on all cases.

    Args:
        run: `expected_of` for this component, called with a case and ``measure=``.
        dtype: of the artifact's floats. What 16 bits cost does depend on the trial, and is measured on each.
    """
    spares = dtype is torch.float32 and not component.chunked  # the names of whose outputs are those of one trial
    measured = _few_and_cheap(cases) if spares else {case.number for case in cases}
    expected = [run(case, measure=case.number in measured) for case in progress(cases, label="trials of the original")]
    models = [each for each in expected if not each.measured]
    return [_limited_like(each, models) if each.measured else each for each in expected]


def _few_and_cheap(cases: Sequence[InputCase]) -> set[int]:
    """Numbers of the outer ones, and one between, of the cases much smaller than the largest; else of the smallest."""
    by_size = sorted(cases, key=_elements)
    most = CHEAP * _elements(by_size[-1])
    cheap = [case.number for case in by_size if _elements(case) <= most] or [by_size[0].number]
    return {cheap[0], cheap[len(cheap) // 2], cheap[-1]}


def _limited_like(expected: Expected, models: Sequence[Expected]) -> Expected:
    """With the cost of the trial that is nearest in size."""
    size = math.log(_elements(expected.case))
    nearest = min(models, key=lambda each: abs(math.log(_elements(each.case)) - size))
    return replace(expected, cost=nearest.cost, note=nearest.note)


def _elements(case: InputCase) -> int:
    return max(sum(value.numel() for value in case.inputs.values()), 1)
