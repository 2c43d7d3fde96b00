"""Parts of tensors: from the file where it is certain where they are, through the mapping elsewhere, never wrong."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tasks.models.loading.parts import CheckpointParts
from tests.support.errors import error_of

PAGE = 4096
W = {"a": torch.arange(1000.0), "n": torch.arange(5), "b": torch.arange(6.0).reshape(2, 3), "flag": torch.tensor(True)}


def read(member: CheckpointParts, name: str, start: int, count: int) -> tuple[Tensor, bool]:
    """Some elements, and whether they were read from the file."""
    memory = torch.empty(count, dtype=member.tensors[name].dtype)
    part = member.part(name, start, memory)
    return part, part is memory


def save_legacy(tensors: dict[str, Tensor], path: Path) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(("save", "from_file"), [(torch.save, True), (save_legacy, False), (save_file, False)])
def test_parts_of_every_format_are_those_of_the_tensors(
    tmp_path: Path, save: Callable[[dict[str, Tensor], Path], None], from_file: bool
) -> None:
    save(W, tmp_path / "w.pt")
    with CheckpointParts(tmp_path / "w.pt") as member:
        for name, tensor in W.items():
            for start in range(0, tensor.numel(), 3):
                part, was_read = read(member, name, start, min(3, tensor.numel() - start))
                assert torch.equal(part, tensor.flatten()[start : start + 3])
                assert was_read == from_file


OUT_OF_ORDER = {
    "transposed": torch.arange(6.0).reshape(2, 3).t(),
    "strided": torch.arange(12.0)[::2],
    "repeated": torch.ones(1).expand(4),
    "conjugate": torch.randn(4, dtype=torch.cfloat).conj(),
}


@pytest.mark.parametrize("tensor", OUT_OF_ORDER.values(), ids=OUT_OF_ORDER.keys())
def test_tensors_that_are_no_bytes_in_order_are_read_by_value(tmp_path: Path, tensor: Tensor) -> None:
    torch.save({"t": tensor, "w": torch.ones(3)}, tmp_path / "w.pt")
    with CheckpointParts(tmp_path / "w.pt") as member:
        assert torch.equal(read(member, "t", 1, 3)[0], tensor.flatten()[1:4])
        assert read(member, "w", 0, 3)[1]


def test_a_view_is_read_from_where_it_begins(tmp_path: Path) -> None:
    base = torch.arange(100.0)
    torch.save({"v": base[10:20], "base": base}, tmp_path / "w.pt")
    with CheckpointParts(tmp_path / "w.pt") as member:
        assert torch.equal(read(member, "v", 2, 4)[0], base[12:16])


def test_a_file_in_which_the_tensors_could_be_at_several_places_is_not_guessed_at(tmp_path: Path) -> None:
    """Beside weights that are left out, equal in size, whole pages apart."""
    doubtful = 0
    for size in range(PAGE - 256, PAGE, 32):  # with what the archive puts between records, one of them makes a page
        tensors = [torch.full((size // 4,), float(k)) for k in range(4)]
        torch.save({"model": {"w": tensors[0]}, "optimizer": {"m": tensors[1:]}}, tmp_path / f"{size}.pt")
        with CheckpointParts(tmp_path / f"{size}.pt") as member:
            part, was_read = read(member, "w", 0, size // 4)
            assert torch.equal(part, tensors[0])
            doubtful += not was_read
    assert 0 < doubtful < 8


def test_bytes_in_another_order_are_turned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(sys, "byteorder", "big" if sys.byteorder == "little" else "little")
        torch.save({"w": torch.tensor([1, 256])}, tmp_path / "w.pt")
    with CheckpointParts(tmp_path / "w.pt") as member:
        part, was_read = read(member, "w", 0, 2)
    assert (part.tolist(), was_read) == ([1 << 56, 1 << 48], False)


def test_a_file_that_becomes_shorter_is_named(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(100_000)}, tmp_path / "w.pt")
    with CheckpointParts(tmp_path / "w.pt") as member:
        with (tmp_path / "w.pt").open("r+b") as file:
            file.truncate(1000)
        error = error_of(read, member, "w", 50_000, 100)
    assert error.what == "has become shorter while it was read"
    assert error.where.endswith("w.pt")
