"""Makes seeded, realistic inputs for any component from its declaration alone.

Cases start with the sizes where things break (smallest, odd, usual, largest) and continue with random ones, of which
most are small: a verification takes as long as its largest cases.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from tasks.runtimes.base import Shapes
from tasks.settings.component import AxisSpec, ComponentSpec, InputSpec, Kind

SOLVER_STEPS = 10  # of the cosine schedule whose points are the times that a flow's solver evaluates
GENERATED = "seeded"
NEAR = 1.5  # a size within this factor is as good as the other
STRONG = 0.25  # at most this share of a strongly padded item is valid


class Padding(Enum):
    """How much of the items of a batch is padding; one of several always reaches the end."""

    random = "random"
    none = "none"
    strong = "strong"


PADDINGS = (Padding.random, Padding.none, Padding.random, Padding.strong)  # of cases, in turn


@dataclass(frozen=True)
class InputCase:
    """One set of inputs, fp32 where they are floats, with its named sizes."""

    number: int
    sizes: dict[str, int]
    inputs: dict[str, Tensor]
    source: str = GENERATED  # or the recording


def generated_cases(
    component: ComponentSpec, *, count: int, seed: int, max_size: int, static: Mapping[str, int], fixed: Shapes
) -> Iterator[InputCase]:
    """Yield `count` cases, none for a component with inputs that can only be recorded.

    Case n is the same whatever `count` is.

    Args:
        max_size: largest size to try on an axis.
        static: named sizes that the module fixes.
        fixed: sizes that the artifact fixes, see Runtime.shapes.

    Raises:
        UserError: a named size is not known.
    """
    if component.of_kind(Kind.recorded):
        return
    pinned = dict(static) | component.fixed_sizes(fixed)
    for number in range(count):
        random = trial_generator(seed, number)
        sizes = {name: _size(axis, number, max_size, random) for name, axis in component.axes.items()}
        padding = PADDINGS[number % len(PADDINGS)]
        yield make_case(component, sizes | pinned, padding=padding, random=random, number=number)


def trial_generator(seed: int, number: int) -> torch.Generator:
    """The random numbers of one trial, the same whichever trials are run beside it."""
    return torch.Generator().manual_seed(seed * 1_000_003 + number)


def make_case(
    component: ComponentSpec, sizes: Mapping[str, int], *, padding: Padding, random: torch.Generator, number: int = 0
) -> InputCase:
    """Inputs of given sizes. Floats that can only be recorded are ones, integers zeros."""
    values = _Values(component, sizes, padding=padding, random=random)
    inputs = {name: values.tensor(name) for name in component.inputs}
    used = {size for declared in component.inputs.values() for size in declared.shape}
    return InputCase(number, {name: size for name, size in sizes.items() if name in used}, inputs)


def trace_sample(component: ComponentSpec, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Inputs to trace with: ones, or the nearest value within an input's bounds; zeros for recorded integers."""
    return {
        name: torch.full(component.shape(name, sizes), _constant(declared), dtype=dtype_of(declared))
        for name, declared in component.inputs.items()
    }


def with_floats(
    inputs: Mapping[str, Tensor], dtype: torch.dtype, exceptions: Mapping[str, torch.dtype] | None = None
) -> dict[str, Tensor]:
    """Inputs whose floats have another dtype; some may have one of their own."""
    own = exceptions or {}
    return {
        name: value.to(own.get(name, dtype)) if value.is_floating_point() else value for name, value in inputs.items()
    }


def dtype_of(declared: InputSpec) -> torch.dtype:
    """PyTorch's dtype of an input."""
    dtype: torch.dtype = getattr(torch, declared.dtype)
    return dtype


def static_sizes(module: nn.Module) -> dict[str, int]:
    """The named sizes that a module fixes itself, its `sizes()`."""
    sizes = getattr(module, "sizes", None)
    return dict(sizes()) if callable(sizes) else {}


def _constant(declared: InputSpec) -> float:
    if declared.kind in {Kind.integers, Kind.uniform}:
        one = min(max(1.0, declared.low), declared.high)
        return int(one) if declared.kind is Kind.integers else one
    return int(declared.kind is not Kind.recorded or dtype_of(declared).is_floating_point)


def _size(axis: AxisSpec, number: int, max_size: int, random: torch.Generator) -> int:
    low, high = axis.min, max(axis.min, min(axis.max, max_size))
    usual = min(axis.opt, high)
    odd = (low + usual) // 2 | 1
    corners = dict(enumerate((low, odd if odd <= high else max(low, odd - 2), usual, high)))
    if usual < high < NEAR * usual:  # then it takes as long and shows no more
        del corners[2]
    if number in corners:
        size = corners[number]
    else:
        share = torch.rand((), generator=random).item() ** 2
        size = min(high, round(math.exp(math.log(low) + share * (math.log(high) - math.log(low)))))
    return max(low, size // axis.multiple_of * axis.multiple_of)


class _Values:
    """Makes the tensors of one case; padding is the same in all of them."""

    def __init__(
        self, component: ComponentSpec, sizes: Mapping[str, int], *, padding: Padding, random: torch.Generator
    ) -> None:
        self._component, self._sizes, self._padding, self._random = component, sizes, padding, random
        self._lengths: dict[tuple[int, int], Tensor] = {}

    def tensor(self, name: str) -> Tensor:
        declared, shape = self._component.inputs[name], self._component.shape(name, self._sizes)
        made: Any = {
            Kind.normal: self._normal,
            Kind.uniform: self._uniform,
            Kind.integers: self._integers,
            Kind.mask: self._mask,
            Kind.lengths: self._valid_lengths,
            Kind.time: self._time,
            Kind.recorded: self._recorded,
        }[declared.kind](name, declared, shape)
        values: Tensor = made
        return values.to(dtype_of(declared))

    def _normal(self, _name: str, _declared: InputSpec, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self._random)

    def _uniform(self, _name: str, declared: InputSpec, shape: tuple[int, ...]) -> Tensor:
        return declared.low + (declared.high - declared.low) * torch.rand(shape, generator=self._random)

    def _integers(self, _name: str, declared: InputSpec, shape: tuple[int, ...]) -> Tensor:
        return torch.randint(int(declared.low), int(declared.high) + 1, shape, generator=self._random)

    def _mask(self, _name: str, _declared: InputSpec, shape: tuple[int, ...]) -> Tensor:
        valid = torch.arange(shape[-1]) < self._valid(shape[0], shape[-1]).unsqueeze(1)
        return valid.reshape(shape[0], *[1] * (len(shape) - 2), shape[-1]).expand(shape).contiguous()

    def _valid_lengths(self, name: str, _declared: InputSpec, shape: tuple[int, ...]) -> Tensor:
        (items,) = shape
        return self._valid(items, self._sizes[self._component.measured_axis(name)])

    def _time(self, _name: str, _declared: InputSpec, shape: tuple[int, ...]) -> Tensor:
        step = torch.randint(SOLVER_STEPS, shape, generator=self._random)
        return 1 - torch.cos(step / SOLVER_STEPS * math.pi / 2)

    def _recorded(self, _name: str, declared: InputSpec, shape: tuple[int, ...]) -> Tensor:
        return torch.full(shape, _constant(declared))

    def _valid(self, items: int, size: int) -> Tensor:
        """Valid lengths, at least 1; one item reaches the end, as the longest of a real batch does."""
        if (items, size) not in self._lengths:
            share = torch.rand(items, generator=self._random) * (STRONG if self._padding is Padding.strong else 1)
            lengths = (share * size).ceil().clamp(1, size).long()
            if items > 1:
                lengths[torch.randint(items, (), generator=self._random)] = size
            self._lengths[items, size] = torch.full_like(lengths, size) if self._padding is Padding.none else lengths
        return self._lengths[items, size]
