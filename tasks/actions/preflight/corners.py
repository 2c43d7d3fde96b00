"""Runs a graph on the CPU at min, opt and max of every profile, and checks shapes and that all outputs are finite."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.actions.build_plan.onnx_interface import OnnxInterface
from tasks.actions.inputs.generated import Padding, make_case
from tasks.actions.preflight.memory import ProfileMemory
from tasks.errors import UserError
from tasks.machine.memory import available_memory
from tasks.runtimes.base import Runtime
from tasks.runtimes.onnxruntime_.session import open_artifact
from tasks.runtimes.tensorrt_.interface import DTYPE_OF_FORMAT
from tasks.settings.component import ComponentSpec, Shape
from tasks.settings.shape_profiles import Profile, corners

SLACK = 1.5  # measured: ONNX Runtime takes up to 1.2 times the estimate
EMULATION = 2.0  # the estimate is for bf16 tensors, which emulation stores as fp32
SEED = 0


@dataclass(frozen=True)
class Corner:
    """One corner of one profile and its result; `skipped` is the reason why it was not run."""

    profile: int
    name: str
    sizes: Mapping[str, int]
    problems: tuple[str, ...] = ()
    skipped: str = ""

    def summary(self) -> dict[str, Any]:
        return {"profile": self.profile, "corner": self.name, **self.sizes, "result": self.skipped or "ran"}


def run_corners(
    onnx: Path,
    graph: OnnxInterface,
    component: ComponentSpec,
    profiles: Sequence[Profile],
    *,
    memory: Sequence[ProfileMemory],
    threads: int,
    track: Callable[..., Iterable[Any]],
    available: int | None = None,
) -> list[Corner]:
    """Run every corner that fits into memory.

    Args:
        memory: estimates for the same profiles.
        track: `tasks.progress.progress` or the like.
        available: bytes of memory that may be used; None: what is left on this machine or in its container.
    """
    session = open_artifact(onnx, device="cpu", threads=threads, low_memory=True)
    slack = SLACK * (EMULATION if session.emulated else 1.0)
    room = available if available is not None else available_memory()
    wanted = [
        (index, name, sizes) for index, profile in enumerate(profiles) for name, sizes in corners(profile).items()
    ]
    found: dict[tuple[tuple[str, int], ...], Corner] = {}
    for index, name, sizes in track(wanted, label="corners of the profiles", total=len(wanted)):
        key = tuple(sorted(sizes.items()))
        if key not in found:
            needed = int(slack * memory[index].corners[name].peak)
            found[key] = _run_corner(session, graph, component, Corner(index, name, sizes), needed=needed, room=room)
    return list(found.values())


def _run_corner(
    session: Runtime, graph: OnnxInterface, component: ComponentSpec, corner: Corner, *, needed: int, room: int
) -> Corner:
    if needed > room:
        why = f"not run: would take about {needed / 2**30:.1f} GiB, {room / 2**30:.1f} GiB are free"
        return Corner(corner.profile, corner.name, corner.sizes, skipped=why)
    sizes = {**corner.sizes, **_sizes_in_graph(graph, component)}
    where = f"profile {corner.profile} at {corner.name} ({', '.join(f'{k}={v}' for k, v in corner.sizes.items())})"
    try:
        results = session(_inputs(graph, component, sizes))
    except UserError as problem:
        return Corner(corner.profile, corner.name, corner.sizes, (f"{where}: does not run: {problem.value}",))
    named = {tensor.name: result for tensor, result in zip(graph.outputs, results, strict=True)}
    problems = tuple(f"{where}: {line}" for line in _problems(named, component.outputs, sizes))
    return Corner(corner.profile, corner.name, corner.sizes, problems)


def _inputs(graph: OnnxInterface, component: ComponentSpec, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(SEED)
    made = make_case(component, sizes, padding=Padding.random, random=random).inputs
    return {tensor.name: made[tensor.name].to(DTYPE_OF_FORMAT[tensor.format]) for tensor in graph.inputs}


def _sizes_in_graph(graph: OnnxInterface, component: ComponentSpec) -> dict[str, int]:
    """Named sizes that are fixed in the graph: a width, a batch of 2."""
    return component.fixed_sizes(
        {tensor.name: [dim if isinstance(dim, int) else None for dim in tensor.dims] for tensor in graph.inputs}
    )


def _problems(results: Mapping[str, Tensor], declared: Mapping[str, Shape], sizes: Mapping[str, int]) -> Iterator[str]:
    for name, dims in declared.items():
        result = results[name]
        expected = [sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in dims]
        agrees = len(expected) == result.dim() and all(
            isinstance(want, str) or want == got for want, got in zip(expected, result.shape, strict=True)
        )
        if not agrees:
            yield f"{name} has shape {list(result.shape)} instead of {expected}"
        if broken := int((~torch.isfinite(result)).sum()):
            yield f"{name} has {broken} NaN or infinite values of {result.numel()}"
