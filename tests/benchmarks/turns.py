"""Takes samples of several sides in turns: a machine that others use is faster at one minute and slower at the next."""

from collections.abc import Callable, Mapping

Sample = Mapping[str, float]  # by quantity


def in_turns(sides: Mapping[str, Callable[[], Sample]], *, rounds: int) -> dict[str, dict[str, list[float]]]:
    """One sample of each side per round, by side and quantity; each round begins with another side."""
    samples: dict[str, dict[str, list[float]]] = {side: {} for side in sides}
    names = list(sides)
    for turn in range(rounds):
        first = turn % len(names)
        for side in names[first:] + names[:first]:
            for quantity, value in sides[side]().items():
                samples[side].setdefault(quantity, []).append(value)
    return samples
