"""All trials of a verification; those beyond their limits are compared with more runs of the original."""

from collections.abc import Callable, Sequence
from typing import Any

from tasks.actions.verify.reference import Expected
from tasks.progress import progress

FEW_RUNS = 16
MANY_RUNS = 128
RARE = 0.25  # share of the trials
ELEMENTS = 2**21  # of the inputs of all runs together, beyond the first 16: a minute at published sizes


def all_tried(
    expected: Sequence[Expected], tried_one: Callable[[Expected, int], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Run all trials, and those that are beyond their limits again.

    Where float64 was spared, that is first beside one run of the original as in another engine, then beside float64.

    Damage shows in most trials, and a few runs of the original are enough to exclude luck in one of them. What shows in
    few trials may be as rare among the runs of the original; then there are more, where they are short.

    Args:
        tried_one: `tried` for this artifact, on one case with a number of runs.

    Returns:
        Of each trial what `tried` returns. Behind the first that is beyond its limits after all, none is run again.
    """
    expected = list(expected)
    results = [tried_one(each, 0) for each in progress(expected, label="trials of the artifact")]
    for number in _beyond(results):
        if measured := expected[number].measured:
            results[number] = tried_one(expected[number], 1)  # a run as in another engine takes half of float64's time
            if results[number]["failures"]:
                expected[number] = measured()
                results[number] = tried_one(expected[number], 0)
    beyond = _beyond(results)
    rare = len(beyond) <= RARE * len(results)
    for number in beyond:
        each = expected[number]
        results[number] = tried_one(each, _runs(each) if rare else FEW_RUNS)
        if results[number]["failures"]:
            break
    return results


def _beyond(results: Sequence[dict[str, Any]]) -> list[int]:
    return [number for number, result in enumerate(results) if result["failures"]]


def _runs(expected: Expected) -> int:
    elements = sum(value.numel() for value in expected.given.values())
    return min(max(FEW_RUNS, ELEMENTS // max(elements, 1)), MANY_RUNS)
