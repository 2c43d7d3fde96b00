"""Compares the weights in an artifact with those of the checkpoint, element by element.

No error is too small for it, where outputs only show what exceeds the noise of their format. Exporters rename,
transpose and reshape weights, so they are matched by their values: rounded to the artifact's format, whatever their
order, the bits of a weight have one sum.
"""

from collections import defaultdict
from collections.abc import Mapping
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tasks.runtimes.base import StoredWeight

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Reads(TorchDispatchMode):
    """Notes which memory is read by operators; a method that an artifact does not have leaves its weights unread."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.addresses |= {leaf.data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        return func(*args, **(kwargs or {}))


class _Stored:
    """A weight of the artifact; `found` once it is one of the checkpoint's."""

    def __init__(self, weight: StoredWeight) -> None:
        values = weight.read()
        self.name, self.read, self.scale, self.found = weight.name, weight.read, weight.scale, False
        self.dtype, self.elements, self.sum_of_bits = values.dtype, values.numel(), _sum_of_bits(values)

    def of(self, original: Tensor) -> Tensor:
        """What a weight of the checkpoint becomes here: scaled as the exporter scaled this one, and rounded."""
        scaled = original if self.scale == 1 else original * self.scale
        return scaled.to(self.dtype)


def compare_weights(module: nn.Module, addresses: set[int], stored: list[StoredWeight]) -> dict[str, Any]:
    """Look for every weight that the module reads among those of an artifact.

    Args:
        module: the original.
        addresses: of `Reads`, from a call of the module.

    Returns:
        found: the number of weights found.
        without_counterpart: those of a size that nothing in the artifact has, fused with others or folded.
        problems: a line for each that has counterparts of its size, of which none has its values.
    """
    groups: dict[int, list[_Stored]] = defaultdict(list)
    for weight in map(_Stored, stored):
        groups[weight.elements].append(weight)
    originals = {
        name: tensor.detach().cpu()
        for name, tensor in module.state_dict().items()
        if tensor.is_floating_point() and tensor.numel() > 1 and tensor.data_ptr() in addresses
    }
    missing = [name for name, tensor in originals.items() if not _find(tensor, groups[tensor.numel()])]
    problems = _problems(module, {name: originals[name] for name in missing}, groups)
    return {
        "found": len(originals) - len(missing),
        "without_counterpart": [name for name in missing if name not in problems],
        "problems": [f"{name}: {problem}" for name, problem in problems.items()],
    }


def _find(original: Tensor, candidates: list[_Stored]) -> bool:
    """Mark what has the values of a weight; several may, a weight is stored once for each format it is read in."""
    sums: dict[tuple[torch.dtype, float], int] = {}
    for candidate in candidates:
        key = (candidate.dtype, candidate.scale)
        if key not in sums:
            sums[key] = _sum_of_bits(candidate.of(original))
        if sums[key] == candidate.sum_of_bits:
            candidate.found = True
            return True
    return False


def _sum_of_bits(values: Tensor) -> int:
    """The same for every order of the values."""
    bits = values.contiguous().view(BITS[values.element_size()]).flatten()
    position_free = bits.to(torch.int64)
    return int((position_free * (position_free + 7)).sum())


def _problems(module: nn.Module, missing: Mapping[str, Tensor], groups: Mapping[int, list[_Stored]]) -> dict[str, str]:
    factors = [factor for part in module.modules() if (factor := _factor_of_norm(part)) is not None]
    problems: dict[str, str] = {}
    for name, original in missing.items():
        unknown = [candidate for candidate in groups[original.numel()] if not candidate.found]
        if fused := next((candidate for candidate in unknown if _is_fused(original, candidate, factors)), None):
            fused.found = True
            continue
        # Constants that are no weights have sizes of their own, but for vectors, which have the widths of the model.
        named = [each for each in unknown if original.dim() > 1 or each.name.startswith(name)]
        if named:
            problems[name] = _nearest_difference(original, named)
    return problems


def _nearest_difference(original: Tensor, candidates: list[_Stored]) -> str:
    """A line on the candidate that differs least, in the order of axes in which it differs least."""
    pairs = [
        (candidate.name, candidate.read().flatten(), candidate.of(original).permute(order).flatten())
        for candidate in candidates
        for order in permutations(range(original.dim()))
    ]
    stored, found, wanted = min(pairs, key=lambda pair: float((pair[1].double() - pair[2].double()).square().sum()))
    worst = int((found.double() - wanted.double()).abs().argmax())
    return (
        f"{int((found != wanted).sum())} of {len(found)} elements of {stored} differ, "
        f"the worst is {float(found[worst]):.6g} instead of {float(wanted[worst]):.6g}"
    )


def _factor_of_norm(part: nn.Module) -> Tensor | None:
    """What a batch normalization multiplies its channels by; exporters fold it into the convolution before it."""
    if not isinstance(part, nn.modules.batchnorm._BatchNorm) or part.running_var is None:
        return None
    weight = part.weight if part.weight is not None else torch.ones_like(part.running_var)
    return (weight / torch.sqrt(part.running_var + part.eps)).detach().cpu()


def _is_fused(original: Tensor, candidate: _Stored, factors: list[Tensor]) -> bool:
    values = candidate.read().float()
    tolerance = 2 * torch.finfo(candidate.dtype).eps
    return any(
        len(factor) == len(original) == len(values)
        and values.numel() == original.numel()
        and torch.allclose(
            values.flatten(1), (original.flatten(1) * factor[:, None]).reshape(values.flatten(1).shape), rtol=tolerance
        )
        for factor in factors
        if original.dim() > 1 and values.dim() > 1
    )
