"""Reads and writes files of weights: named tensors, memory-mapped, loaded without running code.

The one place that decides what such a file is and how its weights are unwrapped. Any defect of it raises one
`UserError` that names the file.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.errors import UserError, shortened_name
from tasks.models.loading.archive import load_archive, load_pickle
from tasks.models.loading.safetensors_file import load_safetensors
from tasks.models.loading.wrapping import count_tensors, unwrap
from tasks.user_files import weights_format

READERS = {"archive": load_archive, "pickle": load_pickle, "safetensors": load_safetensors}
SPREAD_BYTES = 2**20  # of a tensor that repeats its elements

_notes: dict[Path, list[str]] = {}


def open_checkpoint(path: Path, expected: Collection[str] = (), *, large_later: bool = False) -> dict[str, Tensor]:
    """The weights in a file by name, in file order, unwrapped and without what training keeps beside them.

    Memory-mapped: only accessed tensors are read from disk. Tied tensors share storage as they did when saved.

    Args:
        expected: names that the weights should have; a prefix that all of them have in the file is taken off, and
            the only one of several sets of weights that has them is read.
        large_later: as for `tasks.models.loading.archive.is_mapped`.

    Raises:
        UserError: the file is missing, damaged or not one of weights; it contains Python objects, tensors that are
            not dense, or several sets of weights.
    """
    weights = unwrap(_content(path, large_later=large_later), path, expected)
    _notes[path] = weights.notes
    return {name: _dense(name, tensor, path) for name, tensor in weights.tensors.items()}


def tensors_in(path: Path) -> int:
    """How many tensors there are in a file, whatever they are for.

    Raises:
        UserError: the file is missing, damaged, or contains Python objects.
    """
    return count_tensors(_content(path))


def open_dict(path: Path) -> dict[Any, Any]:
    """A dict of plain data and dense tensors, as it is in the file.

    Raises:
        UserError: as open_checkpoint; the file contains something else.
    """
    content = _content(path)
    if not isinstance(content, dict):
        raise UserError("is not a dict of tensors", where=path, value=type(content).__name__, remedy="Save a dict")
    return {
        key: _dense(str(key), value, path) if isinstance(value, Tensor) else value for key, value in content.items()
    }


def how_read(path: Path) -> list[str]:
    """How the weights in a file were unwrapped when it was last opened; empty for a plain state dict."""
    return list(_notes.get(path, ()))


def save_checkpoint(tensors: Mapping[str, Tensor | int], path: Path) -> None:
    """Write a flat dict of tensors; the bytes depend on the tensors alone, not on the file name."""
    with path.open("wb") as file:  # an open file keeps its name out of the archive, and a full disk raises OSError
        torch.save(dict(tensors), file)


def _content(path: Path, *, large_later: bool = False) -> Any:
    found = weights_format(path)
    return load_archive(path, large_later=True) if large_later and found == "archive" else READERS[found](path)


def _dense(name: str, tensor: Tensor, path: Path) -> Tensor:
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        kind = (
            "nested" if tensor.is_nested else "without data" if tensor.is_meta else f"{tensor.layout}, {tensor.dtype}"
        )
        raise UserError(
            "a tensor is sparse, nested, quantized or without data",
            where=path,
            value=f"{shortened_name(name)}: {kind}",
            remedy="Save dense floating-point weights",
        )
    if tensor.nbytes > max(SPREAD_BYTES, tensor.untyped_storage().nbytes()):
        raise UserError(
            "a tensor has more elements than the file contains",
            where=path,
            value=f"{shortened_name(name)}: {list(tensor.shape)}",
            remedy="Save its values: tensor.contiguous()",
        )
    return tensor.detach()
