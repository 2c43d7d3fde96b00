"""Compares the weights in an artifact with those of the checkpoint, element by element.

One wrong element is noticed, where outputs only show what exceeds the noise of their format. Exporters rename,
transpose and reshape weights, so they are matched by their values: rounded to the artifact's format, whatever their
order, the bits of a weight have one sum.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import chain, permutations
from typing import Any

import torch
from torch import Tensor, nn

from tasks.actions.verify.constants import Constants, folded
from tasks.runtimes.base import StoredWeight

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
DESCRIBED_AT_MOST = 3  # differences are looked for among all candidates and orders of axes


class _Stored:
    """A weight of the artifact.

    Attributes:
        known: it is one of the checkpoint's, or computed from these, or all of its elements are equal.
        uniform: they are; it can be a weight of zeros as well as the ones of a normalization without weights.
    """

    def __init__(self, weight: StoredWeight) -> None:
        values = weight.read()
        self.name, self.read, self.scale = weight.name, weight.read, weight.scale
        self.dtype, self.elements, self.sum_of_bits = values.dtype, values.numel(), _sum_of_bits(values)
        self.uniform = self.known = bool((values == values.flatten()[0]).all())

    def of(self, original: Tensor) -> Tensor:
        """What a weight of the checkpoint becomes here: scaled as the exporter scaled this one, and rounded."""
        scaled = original if self.scale == 1 else original * self.scale
        return scaled.to(self.dtype)


Groups = Mapping[int, list[_Stored]]  # by their numbers of elements


def compare_weights(module: nn.Module, call: Callable[[], object], stored: list[StoredWeight]) -> dict[str, Any]:
    """Look for every weight that a call of the module reads among those of an artifact, and the other way round.

    Args:
        module: the original.
        call: runs it.

    Returns:
        found: the number of weights found, as they are or in what is computed from them.
        without_counterpart: those of which nothing in the artifact can be: it does not have them, or hides them.
        problems: a line for each that has counterparts of its size of which none has its values, and for each of the
            artifact that is no weight of the original although it has the size of one.
    """
    groups: dict[int, list[_Stored]] = defaultdict(list)
    for weight in map(_Stored, stored):
        groups[weight.elements].append(weight)
    with Constants(module, groups.keys()) as constants:
        call()
    weights = {
        name: tensor.detach().cpu()
        for name, tensor in chain(module.named_parameters(), module.named_buffers())
        if tensor.is_floating_point() and tensor.numel() > 1
    }
    absent = [name for name, tensor in weights.items() if not _find(tensor, groups[tensor.numel()])]
    missing = [name for name in absent if name in constants.read]
    explained = _explained(chain(constants.values, folded(module, weights)), groups)
    missing = [name for name in missing if name not in explained]
    problems = _problems({name: weights[name] for name in missing}, groups)
    unknown = _unknown({weights[name].numel() for name in constants.read & weights.keys()}, groups)
    in_checkpoint = module.state_dict().keys()
    return {
        "found": len(constants.read & weights.keys()) - len(missing),
        "without_counterpart": [name for name in missing if name not in problems and name in in_checkpoint],
        "problems": [f"{name}: {problem}" for name, problem in problems.items()] or unknown,
    }


def _find(original: Tensor, candidates: list[_Stored]) -> bool:
    """Mark all that have the values of a weight: it is stored once for each format it is read in, or several times."""
    sums: dict[tuple[torch.dtype, float], int] = {}
    found = False
    for candidate in candidates:
        key = (candidate.dtype, candidate.scale)
        if key not in sums:
            sums[key] = _sum_of_bits(candidate.of(original))
        if sums[key] == candidate.sum_of_bits:
            candidate.known = found = True
    return found


def _sum_of_bits(values: Tensor) -> int:
    """The same for every order of the values."""
    bits = values.contiguous().view(BITS[values.element_size()]).flatten()
    position_free = bits.to(torch.int64)
    return int((position_free * (position_free + 7)).sum())


def _explained(constants: Any, groups: Groups) -> set[str]:
    """Mark what is computed from weights, and return the names of these."""
    if all(stored.known for group in groups.values() for stored in group):
        return set()
    names: set[str] = set()
    for constant in constants:
        for stored in groups.get(constant.value.numel(), ()):
            if not stored.known and constant.is_in(stored.read()):
                stored.known = True
                names |= constant.names
    return names


def _unknown(sizes: set[int], groups: Groups) -> list[str]:
    return [
        f"{stored.name} in the artifact is none of the original's weights"
        for size in sizes
        for stored in groups.get(size, ())
        if not stored.known
    ]


def _problems(missing: Mapping[str, Tensor], groups: Groups) -> dict[str, str]:
    problems: dict[str, str] = {}
    for name, original in missing.items():
        candidates = [stored for stored in groups[original.numel()] if not stored.known or stored.uniform]
        if candidates:
            described = len(problems) < DESCRIBED_AT_MOST
            problems[name] = _nearest_difference(original, candidates) if described else "differs as well"
    return problems


def _nearest_difference(original: Tensor, candidates: list[_Stored]) -> str:
    """A line on the candidate that differs least, in the order of axes in which it differs least."""
    orders = list(permutations(range(original.dim())))

    def energy(candidate: _Stored, order: tuple[int, ...]) -> float:
        difference = candidate.read().flatten().double() - candidate.of(original).permute(order).flatten().double()
        return float(difference.square().sum())

    nearest, order = min(((each, order) for each in candidates for order in orders), key=lambda pair: energy(*pair))
    found, wanted = nearest.read().flatten(), nearest.of(original).permute(order).flatten()
    worst = int((found.double() - wanted.double()).abs().argmax())
    return (
        f"{int((found != wanted).sum())} of {len(found)} elements of {nearest.name} differ, "
        f"the worst is {float(found[worst]):.6g} instead of {float(wanted[worst]):.6g}"
    )
