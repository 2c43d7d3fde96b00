"""Averages the weights of the best checkpoints of a training run into one checkpoint.

Each tensor takes one path: its parts are read from all members, added up while they are in the processor's cache, and
written; several tensors are on their way at once, one per thread, and never many.
"""

import contextlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks import checkpoints, progress
from tasks.actions.original import unwrapped
from tasks.checkpoints import Checkpoint
from tasks.errors import UserError, listed, shortened_name
from tasks.job import Job, call_side_by_side
from tasks.models.loading.archive import is_mapped
from tasks.models.loading.joint_checksum import JointChecksum
from tasks.models.loading.parts import CheckpointParts
from tasks.models.loading.piecewise import save_piecewise
from tasks.models.loading.strict_loading import all_finite
from tasks.user_files import weights_format

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
    members: list[CheckpointParts] = []
    with contextlib.ExitStack() as opened:
        try:
            for path in paths:
                members.append(opened.enter_context(CheckpointParts(path)))  # noqa: PERF401 - counts on failure
            _require_alike(members)
            layout = _layout(members)
            checked = _checked_while_read(layout, members)
            call_side_by_side(lambda member: member.compare_large(but=checked), members)
            job.written["averaged"] = save_piecewise(layout, _means(layout, members, checked, job.threads), target)
        except UserError:
            _require_whole(paths[: len(members) + 1])  # what is wrong with the weights can be the damage
            raise
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


def _checked_while_read(layout: Mapping[str, Tensor], members: Sequence[CheckpointParts]) -> set[str]:
    """Tensors that `_mean` compares with their checksums, which spares reading them twice."""
    return {
        name
        for name in _untied(layout)
        if _is_averaged(layout[name]) and all(name in member.checksums for member in members)
    }


def _require_whole(paths: Sequence[Path]) -> None:
    for path in paths:
        if weights_format(path) == "archive":
            is_mapped(path)


def _untied(layout: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors that are not tied to an earlier one."""
    first_of: dict[int, str] = {}
    for name, tensor in layout.items():
        first_of.setdefault(id(tensor), name)
    return list(first_of.values())


def _means(
    layout: Mapping[str, Tensor], members: Sequence[CheckpointParts], checked: Collection[str], threads: int
) -> Iterator[Tensor]:
    """The mean of each tensor that is not tied to an earlier one, in order, some of them computed ahead."""
    ahead: deque[tuple[int, Future[Tensor]]] = deque()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for name in progress.progress(_untied(layout), label="average"):
                ahead.append((layout[name].nbytes, pool.submit(_mean, name, members, is_checked=name in checked)))
                while len(ahead) > threads and sum(size for size, _ in ahead) > AHEAD_BYTES:
                    yield ahead.popleft()[1].result()
            while ahead:
                yield ahead.popleft()[1].result()
        finally:
            pool.shutdown(cancel_futures=True)


def _mean(name: str, members: Sequence[CheckpointParts], *, is_checked: bool) -> Tensor:
    best = members[0].tensors[name]
    mean = torch.empty(best.shape, dtype=best.dtype)
    flat = mean.view(-1)
    in_parts = all(member.tensors[name].is_contiguous() for member in members)
    step = PART_BYTES // best.itemsize if in_parts else max(1, best.numel())
    memory = torch.empty(min(step, best.numel()), dtype=best.dtype)
    checksum = JointChecksum([member.checksums[name] for member in members], memory.nbytes) if is_checked else None
    for start in range(0, best.numel(), step):
        part = flat[start : start + step]
        read = _read(name, start, [part, *[memory[: part.numel()]] * (len(members) - 1)], members, checksum)
        if (first := next(read)) is not part:
            part.copy_(first)
        if _is_averaged(part):
            _average(part, read, len(members))
            if not all_finite(part):
                raise _not_finite(name, members)
        if checksum:
            checksum.end_part(part.nbytes)
    if checksum and not checksum.matches():
        folder = members[0].path.parent
        raise UserError("a checkpoint has changed while it was read", where=folder, value=name, remedy="Run again")
    return mean


def _read(
    name: str, start: int, places: Sequence[Tensor], members: Sequence[CheckpointParts], checksum: JointChecksum | None
) -> Iterator[Tensor]:
    """A part of a tensor from each member, the next one once this one has been used."""
    for index, (member, place) in enumerate(zip(members, places, strict=True)):
        part = member.part(name, start, place)
        if checksum:
            checksum.add(index, part)
        yield part


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
