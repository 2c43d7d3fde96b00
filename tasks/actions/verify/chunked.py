"""Verifies a method that takes a sequence chunk by chunk: an artifact's with the module's, and with the whole sequence.

Each side keeps its own state from chunk to chunk, so an error in the state accumulates and shows.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from tasks.actions.inputs.generated import InputCase
from tasks.runtimes.base import Runtime
from tasks.settings.component import ChunkedSpec, ComponentSpec, Kind

CUTS = 3  # beside a chunk of one position, as decoding has

Pairs = dict[str, tuple[Tensor, Tensor]]


class MethodRuntime(Runtime, Protocol):
    """A runtime whose artifact has methods beside forward."""

    def call(self, method: str, arguments: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Run a method with keyword arguments."""
        ...


class Reference(MethodRuntime, Protocol):
    """The runtime of the original module."""

    causal: bool


def chunked_outputs(
    case: InputCase,
    artifact: MethodRuntime,
    reference: Reference,
    *,
    component: ComponentSpec,
    chunked: ChunkedSpec,
    dtype: torch.dtype,
) -> Pairs:
    """What both sides return for the first item of a case, given in chunks: name -> (artifact's, reference's).

    Args:
        chunked: the component's; its fields are described in tasks/settings/model_schema.py.
        dtype: floats that the artifact takes; the reference gets the same values in fp32.

    Returns:
        ``METHOD[start:end].OUTPUT`` and ``.STATE`` for each chunk, and ``METHOD``, all chunks together compared with
        the reference's forward on the whole. A forward that looks ahead is another function: then with one chunk.
    """
    name, inputs = chunked.pieces, _first_item(case, component, chunked)
    sequence = inputs[name].to(dtype)
    axis = component.inputs[name].shape.index(chunked.axis)
    output = next(iter(component.outputs))
    ours, theirs = (_Side(side, chunked, kind) for side, kind in ((artifact, dtype), (reference, torch.float32)))
    pairs: Pairs = {}
    chunks = []
    for start, end in pairwise(_bounds(sequence.size(axis), case.number)):
        chunk = sequence.narrow(axis, start, end - start)
        found, expected = (side.feed(chunk, start, end) for side in (ours, theirs))
        names = (f"{chunked.method}[{start}:{end}].{what}" for what in (output, *chunked.state))
        pairs |= dict(zip(names, zip(found, expected, strict=True), strict=True))
        chunks.append(found[0])
    if reference.causal:
        whole = reference(inputs | {name: sequence.float()})[0]
    else:
        whole = _Side(reference, chunked, torch.float32).feed(sequence, 0, sequence.size(axis))[0]
    return pairs | {chunked.method: (torch.cat(chunks, dim=axis), whole)}


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
