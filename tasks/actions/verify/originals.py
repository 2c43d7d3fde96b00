"""The original's side of all trials of an artifact. What fp32 itself costs is measured where that is cheap.

A run in float64 takes more than twice as long as one in fp32, and most of a verification's time would go into those of
its few long trials. How far fp32 is from float64 depends little on the length as a rule, so that a long trial is
compared with fp32 and has the limits of the longest of the short ones. An artifact that is beyond these is compared
with float64 there as well: no artifact fails by what was measured on another trial.
"""

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
    measured = _cheap(cases) if spares else {case.number for case in cases}
    expected = [run(case, measure=case.number in measured) for case in progress(cases, label="trials of the original")]
    model = max((each for each in expected if not each.measured), key=_elements)
    return [replace(each, cost=model.cost, note=model.note) if each.measured else each for each in expected]


def _cheap(cases: Sequence[InputCase]) -> set[int]:
    """Numbers of the cases that are much smaller than the largest, and of one of the smallest."""
    sizes = {case.number: sum(value.numel() for value in case.inputs.values()) for case in cases}
    smallest, largest = min(sizes, key=lambda number: sizes[number]), max(sizes.values())
    return {smallest} | {number for number, size in sizes.items() if size <= CHEAP * largest}


def _elements(expected: Expected) -> int:
    return sum(value.numel() for value in expected.case.inputs.values())
