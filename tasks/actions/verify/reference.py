"""The original's side of a trial: what an artifact is compared with, and what the artifact's format costs there.

It is computed for all trials before the artifact runs, so that their working memories never add up. Until they are
compared, outputs are in files: the caches of a decoder grow with the length, to gigabytes over all trials.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tasks.actions.inputs.generated import InputCase, with_floats
from tasks.actions.verify.arithmetic import Widened, exact_operators, rounded
from tasks.actions.verify.chunked import Outputs, chunked_outputs, whole_output
from tasks.actions.verify.metrics import Metrics, metrics
from tasks.actions.verify.timing import timed
from tasks.errors import UserError, reason
from tasks.runtimes.base import Dtypes
from tasks.runtimes.eager import PyTorchModule
from tasks.settings.component import ComponentSpec


@dataclass(frozen=True)
class Expected:
    """What a trial of an artifact is compared with.

    Attributes:
        case: its floats are rounded to those of the artifact, in fp32.
        given: the same as the artifact takes them.
        outputs: returns those of the original, by name: in float64 for an fp32 artifact, in fp32 for others.
        cost: of each output, the errors of the original itself in the artifact's format; empty if not measured.
        note: why there is no cost, if there is none.
        cost_again: the same of a run as in another engine; its argument is the seed of its roundings.
        milliseconds: of a call of the original in fp32.
        measured: the same trial with float64 outputs and their cost, where `outputs` are those of fp32 to save time.
    """

    case: InputCase
    given: dict[str, Tensor]
    outputs: Callable[[], Outputs]
    cost: dict[str, Metrics]
    note: str
    cost_again: Callable[[int], dict[str, Metrics]]
    milliseconds: float
    measured: "Callable[[], Expected] | None" = None


def expected_of(
    case: InputCase,
    reference: PyTorchModule,
    *,
    component: ComponentSpec,
    dtype: torch.dtype,
    dtypes: Dtypes,
    folder: Path,
    measure: bool = True,
) -> Expected:
    """Run the original on one case.

    Args:
        dtype: of the artifact's floats.
        dtypes: of inputs that the artifact takes in one dtype only.
        folder: for the outputs, as long as they are needed.
        measure: what the format costs; without, `measured` of the result does so later.

    Raises:
        UserError: there is not enough memory.
    """
    given = with_floats(case.inputs, dtype, dtypes)
    exact = replace(case, inputs=with_floats(given, torch.float32))
    original = _Original(exact, reference, component)
    with _memory_for(exact):
        found, milliseconds = timed(lambda: original.forward(torch.float32))
        plain = original.outputs(torch.float32, found)

    def kept_as(name: str, outputs: Outputs, cost: dict[str, Metrics], note: str) -> Expected:
        kept = _kept(outputs, folder / f"trial{case.number}.{name}.pt")

        def cost_again(seed: int) -> dict[str, Metrics]:
            return _cost(original.rounded(dtype, seed=seed), kept())

        return Expected(exact, given, kept, cost, note, cost_again, milliseconds)

    def measured(plain: Outputs) -> Expected:
        with _memory_for(exact):
            outputs, own, note = _outputs_and_own(original, plain, dtype)
        return kept_as("measured", outputs, _cost(own, outputs), note)

    if measure:
        return measured(plain)
    spared = kept_as("spared", plain, {}, "")
    return replace(spared, measured=lambda: measured(spared.outputs()))


def _cost(own: Outputs, outputs: Outputs) -> dict[str, Metrics]:
    return {name: metrics(output, outputs[name], rtol=0, atol=0) for name, output in own.items()}


def _kept(outputs: Outputs, file: Path) -> Callable[[], Outputs]:
    torch.save({name: output.cpu().clone() for name, output in outputs.items()}, file)
    return lambda: torch.load(file, mmap=True, weights_only=True)


def _outputs_and_own(original: "_Original", plain: Outputs, dtype: torch.dtype) -> tuple[Outputs, Outputs, str]:
    """What the artifact is compared with and what its format makes of it, or why that is not known."""
    own: Outputs = {}
    note = ""
    try:
        if dtype is torch.float32:
            with Widened():
                return original.outputs(torch.float64) | original.whole(torch.float64), plain, note
        own = original.rounded(dtype)
    except Exception as error:  # a module may insist on its own arithmetic, by whatever it raises
        if isinstance(error, RuntimeError) and _is_out_of_memory(error):
            raise
        note = reason(error)
    return plain | original.whole(torch.float32), own, note


class _Original:
    """The original module on one case, in the floats it is asked for."""

    def __init__(self, case: InputCase, reference: PyTorchModule, component: ComponentSpec) -> None:
        self._case, self._reference, self._component = case, reference, component

    def forward(self, floats: torch.dtype) -> tuple[Tensor, ...]:
        return self._reference(with_floats(self._case.inputs, floats))

    def outputs(self, floats: torch.dtype, forward: tuple[Tensor, ...] | None = None) -> Outputs:
        """As an artifact is run: at once, and chunk by chunk if it has a method for that."""
        found = self.forward(floats) if forward is None else forward
        outputs = dict(zip(self._component.outputs, found, strict=True))
        return outputs | chunked_outputs(self._case, self._reference, component=self._component, dtype=floats)

    def rounded(self, dtype: torch.dtype, *, seed: int | None = None) -> Outputs:
        """The outputs in a format, see `arithmetic.rounded`."""
        return rounded(lambda: self.outputs(torch.float32), dtype, exact=self._exact, seed=seed)

    @cached_property
    def _exact(self) -> set[int]:
        return exact_operators(lambda: self.outputs(torch.float32))

    def whole(self, floats: torch.dtype) -> Outputs:
        """The whole sequence in place of all chunks together."""
        return whole_output(self._case, self._reference, component=self._component, dtype=floats)


@contextlib.contextmanager
def _memory_for(case: InputCase) -> Iterator[None]:
    """Names the trial that did not fit into the memory."""
    try:
        yield
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        raise _too_large(case) from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA has an error of its own; the CPU's allocator raises a bare RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _too_large(case: InputCase) -> UserError:
    return UserError(
        "the original module does not fit into the memory at these sizes",
        where=f"trial {case.number}",
        value=", ".join(f"{name}={size}" for name, size in case.sizes.items()),
        remedy="Set verify.max_frames lower",
    )
