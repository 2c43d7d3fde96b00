"""Opens and writes checkpoint files: flat dicts of tensors, memory-mapped, with nothing in them able to run code.

Every way in which such a file can be wrong ends in one `UserError` that names it.
"""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.errors import UserError

BOOKKEEPING = ("epoch", "step")  # what training adds to the state dict; never weights


def open_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, in the file's order, without the training's `epoch` and `step`.

    Memory-mapped: only what is touched is read. Tied tensors share storage as they did when saved.

    Raises:
        UserError: missing, truncated or not a checkpoint; holds Python objects; holds anything but named tensors.
    """
    content = _load(path)
    if not isinstance(content, dict):
        raise UserError("not a dict of tensors", where=path, value=type(content).__name__, remedy="Save a state_dict")
    tensors = {name: value for name, value in content.items() if name not in BOOKKEEPING}
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(
                "a checkpoint must be a flat dict of named tensors",
                where=path,
                value=f"{name!r}: {type(value).__name__}",
                remedy="Save the state_dict itself, not a dict around it",
            )
        if not _is_plain(value):
            raise UserError(
                "a tensor holds no plain numbers: it is sparse, quantized or empty of data",
                where=path,
                value=f"{name}: {value.type()}",
                remedy="Save dense floating-point weights",
            )
    return tensors


def save_checkpoint(tensors: Mapping[str, Tensor | int], path: Path) -> None:
    """Write a plain dict of tensors; the same tensors give the same bytes, whatever the file is called."""
    with path.open("wb") as file:  # an open file keeps the name out of the archive and lets a full disk raise OSError
        torch.save(dict(tensors), file)


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta


def _load(path: Path) -> Any:
    mapped = _is_mappable(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if not (refused := _refused(error)):
            raise _damaged(path, "its bytes are not a pickle of tensors") from error
        raise UserError(
            "holds Python objects that could run code, and is refused",
            where=path,
            value=refused,
            remedy="Save only tensors: torch.save(model.state_dict(), path)",
        ) from error
    except Exception as error:  # a damaged archive can make the reader raise almost anything
        raise _damaged(path, " ".join(f"{type(error).__name__}: {error}".split())[:200]) from error


def _is_mappable(path: Path) -> bool:
    """Whether the file is an archive of stored (not compressed) records, as torch.save has written since 1.6."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError("cannot be read", where=path, value=error.strerror, remedy="Check the path") from error
    if start.startswith(b"version https://git-lfs"):
        raise UserError("is a Git LFS pointer, not the weights", where=path, remedy="Run git lfs pull")
    if not start.startswith(b"PK"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return all(record.compress_type == zipfile.ZIP_STORED for record in archive.infolist())
    except zipfile.BadZipFile as error:
        raise _damaged(path, str(error)) from error


def _refused(error: pickle.UnpicklingError) -> str:
    """The object that torch's message names, if any; the rest of that message advises to load the file unsafely."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line]
    return lines[-1].split(" was not an allowed")[0].rstrip(".") if lines else ""


def _damaged(path: Path, reason: str) -> UserError:
    return UserError("is not a whole PyTorch checkpoint", where=path, value=reason, remedy="Copy or download it again")
