"""Makes seeded, realistic inputs for any component from its declaration alone: sizes, masks, times, lengths.

Trials start with the sizes where things break (smallest, odd, usual, largest) and go on at random.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tasks.errors import UserError
from tasks.runtimes.base import Shapes

SOLVER_STEPS = 10  # of the cosine schedule whose points are the times a flow is asked for
MASK_STYLES = ("random", "full", "random", "strong")
SEEDED = "seeded"
STRONG = 0.25  # at most this share of a strongly padded item is valid

Component = Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """One set of inputs, fp32 where they are floats, with the sizes of its dynamic axes."""

    number: int
    sizes: dict[str, int]
    inputs: dict[str, Tensor]
    source: str = SEEDED  # or the recording


def trials(
    component: Component, *, count: int, seed: int, max_size: int, static: Mapping[str, int], fixed: Shapes
) -> Iterator[Trial]:
    """Yield `count` trials; trial n is the same whatever `count` is.

    Args:
        component: `inputs` (shape, values, dtype) and `axes` (min, opt, max) of the declaration.
        max_size: largest size to try on a dynamic axis.
        static: sizes of the axes that the module itself fixes.
        fixed: sizes that the artifact fixes, see Runtime.shapes.

    Raises:
        UserError: an unknown kind of values, or an axis without a size.
    """
    pinned = pinned_sizes(component, fixed)
    for number in range(count):
        random = torch.Generator().manual_seed(seed * 1_000_003 + number)
        sizes = {name: _size(axis, number, max_size, random) for name, axis in component["axes"].items()}
        sizes |= dict(static) | pinned
        yield make_trial(component, sizes, number=number, random=random)


def make_trial(component: Component, sizes: Mapping[str, int], *, number: int, random: torch.Generator) -> Trial:
    """Inputs of given sizes; the trial's number chooses the style of its padding."""
    maker = _Maker(component, sizes, style=MASK_STYLES[number % len(MASK_STYLES)], random=random)
    inputs = {name: maker.tensor(name) for name in component["inputs"]}
    used = {size for tensor in component["inputs"].values() for size in tensor["shape"] if isinstance(size, str)}
    return Trial(number, {name: sizes[name] for name in sizes if name in used}, inputs)


def static_sizes(module: nn.Module) -> dict[str, int]:
    """The sizes of named axes that a module fixes itself, its `sizes()`."""
    sizes = getattr(module, "sizes", None)
    return dict(sizes()) if callable(sizes) else {}


def pinned_sizes(component: Component, fixed: Shapes) -> dict[str, int]:
    """The sizes of named axes that an artifact fixes.

    Args:
        fixed: see Runtime.shapes.
    """
    return {
        axis: size
        for name, sizes in fixed.items()
        if name in component["inputs"]
        for axis, size in zip(component["inputs"][name]["shape"], sizes, strict=True)
        if isinstance(axis, str) and size is not None
    }


def _size(axis: Mapping[str, int], number: int, max_size: int, random: torch.Generator) -> int:
    low, high = axis["min"], max(axis["min"], min(axis["max"], max_size))
    usual = min(axis["opt"], high)
    odd = (low + usual) // 2 | 1
    corners = (low, odd if odd <= high else max(low, odd - 2), usual, high)
    if number < len(corners):
        size = corners[number]
    else:
        share = torch.rand((), generator=random).item()
        size = min(high, round(math.exp(math.log(low) + share * (math.log(high) - math.log(low)))))
    step = axis.get("multiple_of") or 1
    return max(low, size // step * step)


class _Maker:
    """Makes the tensors of one trial; padding is the same in all of them."""

    def __init__(self, component: Component, sizes: Mapping[str, int], *, style: str, random: torch.Generator) -> None:
        self._component, self._sizes, self._style, self._random = component, sizes, style, random
        self._lengths: dict[tuple[int, int], Tensor] = {}
        self._kinds = {
            "normal": self._normal,
            "mask": self._mask,
            "time": self._time,
            "lengths": self._valid_lengths,
        }

    def tensor(self, name: str) -> Tensor:
        declared = self._component["inputs"][name]
        kind = declared["values"]
        if kind not in self._kinds:
            raise UserError(
                "unknown kind of values",
                where=f"{self._component['name']}: inputs.{name}.values",
                value=kind,
                remedy=f"Use one of {', '.join(self._kinds)}",
            )
        default = torch.int32 if kind == "lengths" else torch.float32
        dtype = getattr(torch, declared["dtype"]) if declared.get("dtype") else default
        return self._kinds[kind](name).to(dtype)

    def _shape(self, name: str) -> list[int]:
        declared = self._component["inputs"][name]["shape"]
        unknown = [size for size in declared if not isinstance(size, int) and size not in self._sizes]
        if unknown:
            raise UserError(
                "an axis has no size",
                where=f"{self._component['name']}: inputs.{name}.shape",
                value=", ".join(unknown),
                remedy="Declare it in model.axes or let the module tell it in sizes()",
            )
        return [self._sizes.get(size, size) for size in declared]

    def _normal(self, name: str) -> Tensor:
        return torch.randn(self._shape(name), generator=self._random)

    def _mask(self, name: str) -> Tensor:
        shape = self._shape(name)
        valid = torch.arange(shape[-1]) < self._valid(shape[0], shape[-1]).unsqueeze(1)
        return valid.reshape(shape[0], *[1] * (len(shape) - 2), shape[-1]).expand(shape).contiguous()

    def _time(self, name: str) -> Tensor:
        step = torch.randint(SOLVER_STEPS, self._shape(name), generator=self._random)
        return 1 - torch.cos(step / SOLVER_STEPS * math.pi / 2)

    def _valid_lengths(self, name: str) -> Tensor:
        (items,) = self._shape(name)
        return self._valid(items, self._sizes[self._measured_axis(name)])

    def _measured_axis(self, name: str) -> str:
        """The axis whose lengths an input gives: the one dynamic axis that only other inputs have."""
        inputs = self._component["inputs"]
        others = {size for other in inputs.values() for size in other["shape"] if size in self._component["axes"]}
        measured = sorted(others - set(inputs[name]["shape"]))
        if len(measured) != 1:
            raise UserError(
                "lengths of which axis?",
                where=f"{self._component['name']}: inputs.{name}",
                value=", ".join(measured) or "no dynamic axis",
                remedy="Give lengths only to components with one dynamic axis",
            )
        return measured[0]

    def _valid(self, items: int, size: int) -> Tensor:
        """Valid lengths, at least 1; one item reaches the end, as the longest of a real batch does."""
        if (items, size) not in self._lengths:
            share = torch.rand(items, generator=self._random) * (STRONG if self._style == "strong" else 1)
            lengths = (share * size).ceil().clamp(1, size).long()
            if items > 1:
                lengths[torch.randint(items, (), generator=self._random)] = size
            self._lengths[items, size] = lengths if self._style != "full" else torch.full_like(lengths, size)
        return self._lengths[items, size]
