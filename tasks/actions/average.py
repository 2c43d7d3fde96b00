"""Averages the weights of the best checkpoints of a training run into one checkpoint.

Each tensor takes one path: its parts are read from all members, added up while they are in the processor's cache, and
written; several tensors are on their way at once, one per thread, and never many.
"""

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks import checkpoints, progress
from tasks.actions.original import unwrapped
from tasks.checkpoints import Checkpoint
from tasks.errors import UserError, listed, shortened_name
from tasks.job import Job
from tasks.models.loading.archive import compare_checksums
from tasks.models.loading.parts import CheckpointParts
from tasks.models.loading.piecewise import save_piecewise
from tasks.models.loading.strict_loading import all_finite

PART_BYTES = 2**19  # of the best member: two such parts fit into a core's cache
AHEAD_BYTES = 2**26  # averaged, but not written yet


def run(job: Job) -> dict[str, Any]:
    """Choose among the candidates in `job.inputs` (file name -> file), average them, write `averaged`.

    Params:
        average: `num` and `val_best`, as in `tasks.checkpoints.select`.

    Local:
        left_out: the checkpoints of the folder that are never chosen, with the reason; only reported.

    Raises:
        UserError: too few candidates; members that differ in names, shapes or dtypes; NaN or infinite weights.
    """
    candidates = checkpoints.gather(job.inputs)
    chosen = checkpoints.select(candidates, **job.params["average"])
    left_out = job.local.get("left_out") or [one.why_left_out for one in candidates if one.diverged]
    if left_out:
        progress.report(f"left out: {listed(left_out)}")
    members = [checkpoint.weights for checkpoint in chosen]
    layout = average(members, job.outputs["averaged"], job)
    return {
        "best_first": [_summary(checkpoint) for checkpoint in chosen],
        "left_out": left_out,
        "tensors": len(layout),
        "kept_from_best": [name for name, tensor in layout.items() if not _is_averaged(tensor)],
        **unwrapped(*members),
    }


def average(paths: Sequence[Path], target: Path, job: Job) -> dict[str, Tensor]:
    """Write the mean of each floating-point tensor over checkpoint files, in its own dtype. The best comes first.

    Sums run in fp32 (fp64 for fp64 tensors) in the order of the members, then one true division: for fp32 weights bit
    for bit what the original script computes. Integer and bool tensors are no quantities to average (counters, index
    tables): they are the best member's. Tensors that are tied in every member stay tied.

    Returns:
        What was written, by name, without its values.
    """
    compare_checksums(paths)
    with contextlib.ExitStack() as opened:
        members = [opened.enter_context(CheckpointParts(path)) for path in paths]
        _require_alike(members)
        layout = _layout(members)
        job.written["averaged"] = save_piecewise(layout, _means(layout, members, threads=job.threads), target)
    return layout


def _summary(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "file": checkpoint.weights.name,
        "loss": checkpoint.loss,
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
    }


def _is_averaged(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _require_alike(members: Sequence[CheckpointParts]) -> None:
    first = _described(members[0])
    for member in members[1:]:
        other = _described(member)
        differing = [name for name in first | other if first.get(name) != other.get(name)]
        if differing:
            shown = [f"{shortened_name(n)} {first.get(n, 'missing')} / {other.get(n, 'missing')}" for n in differing]
            raise UserError(
                f"tensors that differ between checkpoints: {len(differing)}",
                where=f"{members[0].path} / {member.path.name}",
                value=listed(shown, separator="; "),
                remedy="Average checkpoints of one training run only",
            )


def _described(member: CheckpointParts) -> dict[str, str]:
    return {name: f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for name, t in member.tensors.items()}


def _layout(members: Sequence[CheckpointParts]) -> dict[str, Tensor]:
    """Tensors of the best member's shapes and dtypes without values, tied where all members have the same twice."""
    layout: dict[str, Tensor] = {}
    first_of: dict[tuple[Any, ...], str] = {}
    for name, tensor in members[0].tensors.items():
        first = first_of.setdefault(_place(tensor), name) if tensor.numel() else name
        tied = first != name and all(_are_same(m.tensors[first], m.tensors[name]) for m in members)
        layout[name] = layout[first] if tied else torch.empty(tensor.shape, dtype=tensor.dtype)
    return layout


def _are_same(one: Tensor, other: Tensor) -> bool:
    return _place(one) == _place(other) or torch.equal(one, other)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _means(layout: Mapping[str, Tensor], members: Sequence[CheckpointParts], *, threads: int) -> Iterator[Tensor]:
    """The mean of each tensor that is not tied to an earlier one, in order, some of them computed ahead."""
    first_of: dict[int, str] = {}
    for name, tensor in layout.items():
        first_of.setdefault(id(tensor), name)
    ahead: deque[tuple[int, Future[Tensor]]] = deque()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for name in progress.progress(list(first_of.values()), label="average"):
                ahead.append((layout[name].nbytes, pool.submit(_mean, name, members)))
                while len(ahead) > threads and sum(size for size, _ in ahead) > AHEAD_BYTES:
                    yield ahead.popleft()[1].result()
            while ahead:
                yield ahead.popleft()[1].result()
        finally:
            pool.shutdown(cancel_futures=True)


def _mean(name: str, members: Sequence[CheckpointParts]) -> Tensor:
    best = members[0].tensors[name]
    mean = torch.empty(best.shape, dtype=best.dtype)
    flat = mean.view(-1)
    in_parts = all(member.tensors[name].is_contiguous() for member in members)
    step = PART_BYTES // best.itemsize if in_parts else max(1, best.numel())
    memory = torch.empty(min(step, best.numel()), dtype=best.dtype)
    for start in range(0, best.numel(), step):
        part = flat[start : start + step]
        if (first := members[0].part(name, start, part)) is not part:
            part.copy_(first)
        if _is_averaged(part):
            others = (member.part(name, start, memory[: part.numel()]) for member in members[1:])
            _average(part, others, len(members))
            if not all_finite(part):
                raise _not_finite(name, members)
    return mean


def _average(first: Tensor, others: Iterable[Tensor], count: int) -> None:
    """Replace the values of `first` by the means."""
    short = first.is_floating_point() and first.itemsize < 4
    total = first.float() if short else first
    for other in others:
        total += other.to(total.dtype)  # 8-bit floats do not promote by themselves
    total.div_(count)
    if short:
        first.copy_(total)


def _not_finite(name: str, members: Sequence[CheckpointParts]) -> UserError:
    broken = [m.path for m in members if not torch.isfinite(m.tensors[name]).all()]
    return UserError(
        "contains NaN or infinite weights" if broken else "weights are too large to add up",
        where=broken[0] if broken else members[0].path.parent,
        value=name,
        remedy="Delete this checkpoint and its sidecar: the training had diverged",
    )
