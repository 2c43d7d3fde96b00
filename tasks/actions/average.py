"""Averages the weights of the best checkpoints of a training run into one checkpoint.

A few hundred megabytes of tensors at a time go through memory: beside the result there is one group of one mapped file.
"""

from collections.abc import Iterator, Sequence
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
from tasks.models.loading.checkpoint_file import open_checkpoint, save_checkpoint

GROUP_BYTES = 128 * 2**20


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
    averaged = average(members)
    save_checkpoint(averaged, job.outputs["averaged"])
    return {
        "best_first": [_summary(checkpoint) for checkpoint in chosen],
        "left_out": left_out,
        "tensors": len(averaged),
        "kept_from_best": [name for name, tensor in averaged.items() if not _is_averaged(tensor)],
        **unwrapped(*members),
    }


def average(members: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of each floating-point tensor over checkpoint files, in its own dtype; the best member comes first.

    Sums run in fp32 (fp64 for fp64 tensors) in the order of `members`, then one true division: for fp32 weights bit for
    bit what the original script computes. Integer and bool tensors are no quantities to average (counters, index
    tables): they are the best member's. Tensors that are tied in every member stay tied.
    """
    _require_alike(members)
    best = open_checkpoint(members[0])
    dtypes = {name: tensor.dtype for name, tensor in best.items()}
    groups, ties = list(_groups(best)), _ties(best)
    del best  # an open file keeps every page that was read through it
    result: dict[str, Tensor] = {}
    for names in progress.progress(groups, label="average"):
        sums = _sums(names, members)
        result |= {name: _mean(name, sums.pop(name), members).to(dtypes[name]) for name in names}
    for name, other in ties.items():
        if torch.equal(result[name], result[other]):
            result[name] = result[other]
    return result


def _summary(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "file": checkpoint.weights.name,
        "loss": checkpoint.loss,
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
    }


def _is_averaged(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _require_alike(members: Sequence[Path]) -> None:
    compare_checksums(members)
    first = _described(members[0])
    for member in members[1:]:
        other = _described(member)
        differing = [name for name in first | other if first.get(name) != other.get(name)]
        if differing:
            shown = [f"{shortened_name(n)} {first.get(n, 'missing')} / {other.get(n, 'missing')}" for n in differing]
            raise UserError(
                f"tensors that differ between checkpoints: {len(differing)}",
                where=f"{members[0]} / {member.name}",
                value=listed(shown, separator="; "),
                remedy="Average checkpoints of one training run only",
            )


def _described(member: Path) -> dict[str, str]:
    tensors = open_checkpoint(member)
    return {name: f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for name, t in tensors.items()}


def _groups(tensors: dict[str, Tensor]) -> Iterator[list[str]]:
    """Names of neighbouring tensors, in file order, about GROUP_BYTES in each group."""
    group: list[str] = []
    room = GROUP_BYTES
    for name, tensor in tensors.items():
        if group and tensor.nbytes > room:
            yield group
            group, room = [], GROUP_BYTES
        group.append(name)
        room -= tensor.nbytes
    if group:
        yield group


def _ties(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Each name that shares its memory with an earlier name -> that name."""
    first_of: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        if tensor.numel():
            first_of.setdefault(_place(tensor), name)
    return {n: first for n, t in tensors.items() if t.numel() and (first := first_of[_place(t)]) != n}


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _sums(names: list[str], members: Sequence[Path]) -> dict[str, Tensor]:
    """Sums over members. Each file is opened for one group: only closing it frees the pages that were read."""
    best = open_checkpoint(members[0])
    sums = {name: _wide(best[name]) for name in names}
    del best
    for member in members[1:]:
        tensors = open_checkpoint(member)
        for name in names:
            if _is_averaged(tensors[name]):
                sums[name] += tensors[name].to(sums[name].dtype)  # 8-bit floats do not promote by themselves
    return sums


def _wide(tensor: Tensor) -> Tensor:
    """A copy that can take up a sum: half-precision in fp32, everything else in its own dtype."""
    short = tensor.is_floating_point() and tensor.dtype.itemsize < 4
    return tensor.to(torch.float32 if short else tensor.dtype, copy=True)


def _mean(name: str, total: Tensor, members: Sequence[Path]) -> Tensor:
    if not _is_averaged(total):
        return total
    mean = total.div_(len(members))
    if not torch.isfinite(mean).all():
        raise _not_finite(name, members)
    return mean


def _not_finite(name: str, members: Sequence[Path]) -> UserError:
    broken = [m for m in members if not torch.isfinite(open_checkpoint(m)[name]).all()]
    return UserError(
        "contains NaN or infinite weights" if broken else "weights are too large to add up",
        where=broken[0] if broken else members[0].parent,
        value=name,
        remedy="Delete this checkpoint and its sidecar: the training had diverged",
    )
