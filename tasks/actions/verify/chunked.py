"""Verifies a method that takes a sequence chunk by chunk: an artifact's with the module's, and with the whole sequence.

Each side keeps its own state from chunk to chunk, so an error in the state accumulates and shows.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from tasks.actions.inputs.generated import InputCase, with_floats
from tasks.runtimes.base import Runtime
from tasks.settings.component import ChunkedSpec, ComponentSpec, Kind

Outputs = dict[str, Tensor]  # by name

CUTS = 3  # beside a chunk of one position, as decoding has


class MethodRuntime(Runtime, Protocol):
    """A runtime whose artifact has methods beside forward."""

    def call(self, method: str, arguments: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Run a method with keyword arguments."""
        ...


class Reference(MethodRuntime, Protocol):
    """The runtime of the original module."""

    causal: bool


def chunked_outputs(case: InputCase, runtime: Runtime, *, component: ComponentSpec, dtype: torch.dtype) -> Outputs:
    """What one side returns for the first item of a case, given in chunks; nothing without a method for that.

    Args:
        dtype: floats that this side is given.

    Returns:
        ``METHOD[start:end].OUTPUT`` and ``.STATE`` for each chunk, and ``METHOD``, all chunks together.
    """
    if not (chunked := component.chunked):
        return {}
    sequence, axis = _sequence(case, component, chunked)
    side, output = _Side(cast(MethodRuntime, runtime), chunked, dtype), next(iter(component.outputs))
    found: Outputs = {}
    chunks = []
    for start, end in pairwise(_bounds(sequence.size(axis), case.number)):
        outputs = side.feed(sequence.narrow(axis, start, end - start), start, end)
        names = (f"{chunked.method}[{start}:{end}].{what}" for what in (output, *chunked.state))
        found |= dict(zip(names, outputs, strict=True))
        chunks.append(outputs[0])
    return found | {chunked.method: torch.cat(chunks, dim=axis)}


def whole_output(case: InputCase, reference: Reference, *, component: ComponentSpec, dtype: torch.dtype) -> Outputs:
    """``METHOD`` as the reference returns it for the whole sequence, which all chunks together are compared with.

    It comes from its forward; from one chunk where forward looks ahead and so is another function.
    """
    if not (chunked := component.chunked):
        return {}
    sequence, axis = _sequence(case, component, chunked)
    if reference.causal:
        output, *_ = reference(with_floats(_first_item(case, component, chunked), dtype))
    else:
        output, *_ = _Side(reference, chunked, dtype).feed(sequence, 0, sequence.size(axis))
    return {chunked.method: output}


class _Side:
    """One of the two, with the state that its last call returned."""

    def __init__(self, runtime: MethodRuntime, chunked: ChunkedSpec, dtype: torch.dtype) -> None:
        self._runtime, self._chunked, self._dtype = runtime, chunked, dtype
        self._state = {name: torch.zeros(tuple(shape), dtype=dtype) for name, shape in chunked.state.items()}

    def feed(self, chunk: Tensor, start: int, end: int) -> tuple[Tensor, ...]:
        declared = self._chunked
        arguments = {declared.pieces: chunk.to(self._dtype), **self._state, **declared.arguments}
        if declared.position:
            arguments[declared.position] = start
        if declared.mask:
            arguments[declared.mask] = torch.ones(1, end - start, end, dtype=torch.bool).tril(start)
        outputs = self._runtime.call(declared.method, arguments)
        self._state = dict(zip(declared.state, outputs[1:], strict=True))
        return outputs


def _sequence(case: InputCase, component: ComponentSpec, chunked: ChunkedSpec) -> tuple[Tensor, int]:
    axis = component.inputs[chunked.pieces].shape.index(chunked.axis)
    return _first_item(case, component, chunked)[chunked.pieces], axis


def _first_item(case: InputCase, component: ComponentSpec, chunked: ChunkedSpec) -> dict[str, Tensor]:
    """The first item without padding: every position of it is fed."""
    items = {name: value[:1] for name, value in case.inputs.items()}
    full = dict.fromkeys(component.of_kind(Kind.lengths), case.sizes[chunked.axis])
    full |= dict.fromkeys(component.of_kind(Kind.mask), 1)
    return {name: torch.full_like(value, full[name]) if name in full else value for name, value in items.items()}


def _bounds(size: int, seed: int) -> list[int]:
    """Where the sequence is cut: at random, with a single position after the first chunk."""
    random = torch.Generator().manual_seed(seed)
    cuts = sorted(int(cut) for cut in torch.randint(1, max(size, 2), (CUTS,), generator=random))
    return sorted({0, *cuts, min(cuts[0] + 1, size), size})
