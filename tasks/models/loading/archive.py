"""Reads what torch.save writes: archives since PyTorch 1.6, memory-mapped, and the plain pickles before them."""

import pickle
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tasks.errors import UserError, python_command, reason
from tasks.user_files import damaged_weights

CHUNK_BYTES = 2**20
MOST_EXPANSION = 20  # weights hardly compress; an archive that grows more is made to fill the memory
SMALL_BYTES = 2**26
# Modules whose objects trainers save beside the weights: arguments, paths, numbers.
BOOKKEEPING = ("argparse.", "pathlib.", "numpy.", "omegaconf.", "collections.", "datetime.", "types.SimpleNamespace")


def load_archive(path: Path) -> Any:
    """The content of an archive, its records compared with their checksums.

    Raises:
        UserError: it is damaged, or contains Python objects.
    """
    status = path.stat()
    stored = _check_records(path, status.st_size, status.st_mtime_ns, status.st_ino)
    return _load(path, mapped=stored)


def load_pickle(path: Path) -> Any:
    """The content of a file older than archives; all of it is read.

    Raises:
        UserError: it is damaged, or contains Python objects.
    """
    return _load(path, mapped=False)


@lru_cache(maxsize=64)  # averaging opens each file once for each group of tensors
def _check_records(path: Path, size: int, *version: int) -> bool:
    """Require whole records; whether none is compressed, so that the file can be mapped. `version`: for the cache."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            _require_state_dict(path, [record.filename for record in records])
            if sum(record.file_size for record in records) > max(SMALL_BYTES, MOST_EXPANSION * size):
                raise damaged_weights(path, "its records are said to be many times larger than the file")
            if any(record.CRC for record in records):  # torch.save can leave all checksums out
                for record in records:
                    _check_record(archive, record)
            return all(record.compress_type == zipfile.ZIP_STORED for record in records)
    except UserError:
        raise
    except Exception as error:  # a damaged directory can make the library raise almost anything
        raise damaged_weights(path, f"{type(error).__name__}: {reason(error)}") from error


def _check_record(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    """Read a record to its end, where the library compares the checksum."""
    with archive.open(record) as file:
        left = record.file_size
        while chunk := file.read(CHUNK_BYTES):
            left -= len(chunk)
    if left:
        raise zipfile.BadZipFile(f"{record.filename} is shorter than its size")


def _require_state_dict(path: Path, records: list[str]) -> None:
    if any(name.endswith("/constants.pkl") for name in records):
        remedy = "Save the state_dict of the module that it was made from"
        raise UserError("is a TorchScript file, not a checkpoint", where=path, remedy=remedy)
    if not any(name.endswith("data.pkl") for name in records):
        raise UserError(
            "is a zip archive, but not one of torch.save", where=path, value=", ".join(records[:3]), remedy="Unpack it"
        )


def _load(path: Path, *, mapped: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if not (refused := _refused_object(error)):
            raise damaged_weights(path, "its bytes are not a pickle of tensors") from error
        raise UserError(
            "contains Python objects that could run code",
            where=path,
            value=refused,
            remedy=_remedy(path, refused),
        ) from error
    except Exception as error:  # a damaged file can make the reader raise almost anything
        raise damaged_weights(path, f"{type(error).__name__}: {reason(error)}") from error


def _refused_object(error: pickle.UnpicklingError) -> str:
    """The object named by torch's message, if any; the rest of that message recommends loading without checks."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line]
    return lines[-1].split("GLOBAL ")[-1].split(" was not an allowed")[0].rstrip(".") if lines else ""


def _remedy(path: Path, refused: str) -> str:
    if not refused.startswith(BOOKKEEPING):
        return "Save only tensors: torch.save(model.state_dict(), path)"
    tensors = "v and isinstance(v, dict) and all(isinstance(t, torch.Tensor) for t in v.values())"
    loaded = f"torch.load({str(path)!r}, map_location='cpu', weights_only=False)"
    kept = f"{{k: v for k, v in {loaded}.items() if isinstance(v, torch.Tensor) or {tensors}}}"
    command = python_command(f"import torch; torch.save({kept}, {str(path.with_name(f'{path.stem}.tensors.pt'))!r})")
    return f"If you trust the file, keep its tensors only and give the result: {command}"
