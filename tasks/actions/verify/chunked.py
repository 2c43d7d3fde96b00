"""Verifies a method that takes a sequence piece by piece: an artifact's against the module's, and against the whole.

Each side keeps its own state from piece to piece, so an error in what is kept adds up and shows.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from tasks.actions.inputs.generated import Trial
from tasks.runtimes.base import Runtime

CUTS = 3  # beside a piece of one position, as decoding has

Declaration = Mapping[str, Any]
Named = dict[str, tuple[Tensor, Tensor]]


class Streaming(Runtime, Protocol):
    """A runtime whose artifact has methods beside forward."""

    def call(self, method: str, arguments: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Run a method with keyword arguments."""
        ...


class Reference(Streaming, Protocol):
    """The runtime of the original module."""

    causal: bool


def streamed(
    trial: Trial, artifact: Streaming, reference: Reference, *, component: Declaration, dtype: torch.dtype
) -> Named:
    """What both sides return for the first item of a trial, fed in pieces: name -> (artifact's, reference's).

    Args:
        component: with ``stream``: its fields are described in tasks/settings/schema.py.
        dtype: floats the artifact takes; the reference gets the same values in fp32.

    Returns:
        ``METHOD[start:end].OUTPUT`` and ``.STATE`` for each piece, and ``METHOD``, all pieces together against the
        reference's forward on the whole. One that looks ahead is another function: then against one single piece.
    """
    stream, inputs = component["stream"], _first_item(trial, component)
    name, sequence = stream["pieces"], inputs[stream["pieces"]].to(dtype)
    axis = component["inputs"][name]["shape"].index(stream["axis"])
    output = next(iter(component["outputs"]))
    ours, theirs = (_Side(side, stream, kind) for side, kind in ((artifact, dtype), (reference, torch.float32)))
    compared: Named = {}
    pieces = []
    for start, end in pairwise(_bounds(sequence.size(axis), trial.number)):
        piece = sequence.narrow(axis, start, end - start)
        found, expected = (side.feed(piece, start, end) for side in (ours, theirs))
        names = (f"{stream['method']}[{start}:{end}].{what}" for what in (output, *stream["state"]))
        compared |= dict(zip(names, zip(found, expected, strict=True), strict=True))
        pieces.append(found[0])
    if reference.causal:
        whole = reference(inputs | {name: sequence.float()})[0]
    else:
        whole = _Side(reference, stream, torch.float32).feed(sequence, 0, sequence.size(axis))[0]
    return compared | {stream["method"]: (torch.cat(pieces, dim=axis), whole)}


class _Side:
    """One of the two, with the state that its last call returned."""

    def __init__(self, runtime: Streaming, stream: Declaration, dtype: torch.dtype) -> None:
        self._runtime, self._stream, self._dtype = runtime, stream, dtype
        self._state = {name: torch.zeros(shape, dtype=dtype) for name, shape in stream["state"].items()}

    def feed(self, piece: Tensor, start: int, end: int) -> tuple[Tensor, ...]:
        stream = self._stream
        arguments = {stream["pieces"]: piece.to(self._dtype), **self._state, **stream["arguments"]}
        if stream["position"]:
            arguments[stream["position"]] = start
        if stream["mask"]:
            arguments[stream["mask"]] = torch.ones(1, end - start, end, dtype=torch.bool).tril(start)
        outputs = self._runtime.call(stream["method"], arguments)
        self._state = dict(zip(stream["state"], outputs[1:], strict=True))
        return outputs


def _first_item(trial: Trial, component: Declaration) -> dict[str, Tensor]:
    """The first item without padding: every position of it is fed."""
    kinds = {name: declared["values"] for name, declared in component["inputs"].items()}
    stream = component["stream"]
    size = trial.sizes[stream["axis"]]
    items = {name: value[:1] for name, value in trial.inputs.items()}
    full = {"lengths": size, "mask": 1}
    return {
        name: torch.full_like(value, full[kinds[name]]) if kinds[name] in full else value
        for name, value in items.items()
    }


def _bounds(size: int, number: int) -> list[int]:
    """Where the sequence is cut: at random, with a single position after the first piece."""
    random = torch.Generator().manual_seed(number)
    cuts = sorted(int(cut) for cut in torch.randint(1, max(size, 2), (CUTS,), generator=random))
    return sorted({0, *cuts, min(cuts[0] + 1, size), size})
