"""Checkpoints written tensor by tensor: the bytes of torch.save and their digest, or no file."""

import contextlib
import errno
import io
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tasks.job import sha256
from tasks.models.loading import piecewise
from tasks.models.loading.piecewise import LARGE_BYTES, PENDING_BYTES, save_piecewise

SMALL = {
    "matrix": torch.arange(6.0).reshape(2, 3),
    "nothing": torch.empty(0),
    "number": torch.tensor(1.5),
    "half": torch.ones(7, dtype=torch.bfloat16),
    "counter": torch.tensor(3),
    "flags": torch.tensor([True, False]),
}


def without_values(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    empty = {id(tensor): torch.empty_like(tensor) for tensor in tensors.values()}
    return {name: empty[id(tensor)] for name, tensor in tensors.items()}


def save(tensors: dict[str, Tensor], path: Path) -> str:
    values = {id(tensor): tensor for tensor in tensors.values()}
    return save_piecewise(without_values(tensors), iter(values.values()), path)


def bytes_of_torch_save(tensors: dict[str, Tensor]) -> bytes:
    memory = io.BytesIO()
    torch.save(tensors, memory)
    return memory.getvalue()


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        SMALL,
        SMALL | {"tied": SMALL["matrix"], "also tied": SMALL["matrix"]},
        {f"layers.{k}": torch.full((LARGE_BYTES // 4 + 16 * (k - 2),), float(k)) for k in range(5)},
        {f"layers.{k}": torch.full((PENDING_BYTES // 8,), float(k)) for k in range(4)},
    ],
    ids=["none", "small", "tied", "around the limit", "more than waits"],
)
def test_the_bytes_are_those_of_torch_save_and_the_digest_is_theirs(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    digest = save(tensors, tmp_path / "w.pt")
    assert (tmp_path / "w.pt").read_bytes() == bytes_of_torch_save(tensors)
    assert digest == sha256(tmp_path / "w.pt")


def test_what_is_written_goes_to_the_disk_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piecewise, "TO_DISK_BYTES", LARGE_BYTES)
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    tensors = {f"layers.{k}": torch.ones(LARGE_BYTES) for k in range(3)}
    assert save(tensors, tmp_path / "w.pt") == sha256(tmp_path / "w.pt")
    assert sizes
    assert sizes[0] < (tmp_path / "w.pt").stat().st_size


def test_a_disk_that_fails_meanwhile_is_an_error_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(piecewise, "TO_DISK_BYTES", LARGE_BYTES)
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output error"):
        save({f"layers.{k}": torch.ones(LARGE_BYTES) for k in range(3)}, tmp_path / "w.pt")
    assert list(tmp_path.iterdir()) == []


def test_values_of_another_size_than_the_layout_are_a_bug_and_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data/0 has 4 bytes, its layout 8"):
        save_piecewise({"w": torch.empty(2)}, iter([torch.ones(1)]), tmp_path / "w.pt")
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_course_of_the_values_leaves_no_file(tmp_path: Path) -> None:
    def values() -> Iterator[Tensor]:
        yield torch.ones(LARGE_BYTES)
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        save_piecewise({"a": torch.empty(LARGE_BYTES), "b": torch.empty(2)}, values(), tmp_path / "w.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing_bytes", [10, 200, 4 * LARGE_BYTES, 4 * LARGE_BYTES + 1000])
def test_a_file_that_cannot_grow_is_an_error_of_the_system_and_is_removed(tmp_path: Path, missing_bytes: int) -> None:
    tensors = {"v": torch.ones(300), "w": torch.ones(LARGE_BYTES)}
    with largest_file(len(bytes_of_torch_save(tensors)) - missing_bytes), pytest.raises(OSError, match="too large"):
        save(tensors, tmp_path / "w.pt")
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A limit of this process, past which writing fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
