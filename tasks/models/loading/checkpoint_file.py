"""Reads and writes checkpoint files: flat dicts of tensors, memory-mapped, loaded without running code.

Any defect of such a file raises one `UserError` that names the file.
"""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.errors import UserError, reason

TRAINING_STATE = ("epoch", "step")  # added to the state dict by training; not weights


def open_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, in file order, without the training entries `epoch` and `step`.

    Memory-mapped: only accessed tensors are read from disk. Tied tensors share storage as they did when saved.

    Raises:
        UserError: the file is missing, truncated or not a checkpoint; it contains Python objects, or anything but
            named dense tensors.
    """
    content = open_dict(path)
    tensors = {name: value for name, value in content.items() if name not in TRAINING_STATE}
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(
                "a checkpoint must be a flat dict of named tensors",
                where=path,
                value=f"{name!r}: {type(value).__name__}",
                remedy="Save the state_dict itself, not a dict around it",
            )
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise UserError(
                "a tensor is sparse, quantized or without data",
                where=path,
                value=f"{name}: {value.type()}",
                remedy="Save dense floating-point weights",
            )
    return tensors


def open_dict(path: Path) -> dict[Any, Any]:
    """The plain data of a file that is a dict; tensors are memory-mapped.

    Raises:
        UserError: the file is missing, truncated or something else.
    """
    content = _load(path)
    if not isinstance(content, dict):
        raise UserError("not a dict of tensors", where=path, value=type(content).__name__, remedy="Save a state_dict")
    return content


def save_checkpoint(tensors: Mapping[str, Tensor | int], path: Path) -> None:
    """Write a flat dict of tensors; the bytes depend on the tensors alone, not on the file name."""
    with path.open("wb") as file:  # an open file keeps its name out of the archive, and a full disk raises OSError
        torch.save(dict(tensors), file)


def _load(path: Path) -> Any:
    mapped = _is_mappable(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if not (refused := _refused_object(error)):
            raise _damaged(path, "its bytes are not a pickle of tensors") from error
        raise UserError(
            "contains Python objects that could run code",
            where=path,
            value=refused,
            remedy="Save only tensors: torch.save(model.state_dict(), path)",
        ) from error
    except Exception as error:  # a damaged archive can make the reader raise almost anything
        raise _damaged(path, f"{type(error).__name__}: {reason(error)}") from error


def _is_mappable(path: Path) -> bool:
    """Whether the file is a zip archive of uncompressed records, as written by torch.save since PyTorch 1.6."""
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
        raise _damaged(path, reason(error)) from error


def _refused_object(error: pickle.UnpicklingError) -> str:
    """The object named by torch's message, if any; the rest of that message recommends loading without checks."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line]
    return lines[-1].split(" was not an allowed")[0].rstrip(".") if lines else ""


def _damaged(path: Path, cause: str) -> UserError:
    return UserError("is not a whole PyTorch checkpoint", where=path, value=cause, remedy="Copy or download it again")
