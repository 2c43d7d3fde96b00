"""Reads what torch.save writes: archives since PyTorch 1.6, memory-mapped, and the plain pickles before them."""

import contextlib
import pickle
import warnings
import zipfile
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tasks.errors import UserError, python_command, reason
from tasks.user_files import damaged_weights

DEFAULT_PROTOCOL = 2  # of torch.save
LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # what torch.save wrote first, before archives
CHUNK_BYTES = 2**20
MOST_EXPANSION = 20  # weights hardly compress; an archive that grows more is made to fill the memory
SMALL_BYTES = 2**26
LARGE_BYTES = 2**20
# Modules whose objects trainers save beside the weights: arguments, paths, numbers.
BOOKKEEPING = ("argparse.", "pathlib.", "numpy.", "omegaconf.", "collections.", "datetime.", "types.SimpleNamespace")


class NumpyValue:
    """Stands for a number or an array of NumPy beside weights: read past, whatever its bytes are, and never used."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass

    def __repr__(self) -> str:
        return "a NumPy value"


NUMPY_GLOBALS: list[Any] = [
    (NumpyValue, name)
    for name in (
        *(
            f"numpy.{core}.multiarray.{function}"
            for core in ("core", "_core")
            for function in ("scalar", "_reconstruct")
        ),
        "numpy.dtype",
        "numpy.ndarray",
    )
]


def is_mapped(path: Path, *, large_later: bool = False) -> bool:
    """Whether `load_archive` maps an archive into memory: none of its records is compressed.

    Args:
        large_later: leave it to `compare_large`, or to who reads them, to compare large records with their checksums.

    Raises:
        UserError: it is damaged.
    """
    status = path.stat()
    return _check_records(path, status.st_size, status.st_mtime_ns, status.st_ino, large_later=large_later)


def load_archive(path: Path, *, large_later: bool = False) -> Any:
    """The content of an archive, its records compared with their checksums; `large_later` as for `is_mapped`.

    Raises:
        UserError: it is damaged, or contains Python objects.
    """
    return _load(path, mapped=is_mapped(path, large_later=large_later))


def compare_large(path: Path, *, but: Collection[str]) -> None:
    """Compare the large records of an archive, but for those of some names, with their checksums.

    Raises:
        UserError: it is damaged.
    """
    with _reading(path), zipfile.ZipFile(path) as archive:
        for record in records_with_checksums(archive):
            if is_large(record) and record.filename not in but:
                _check_record(archive, record)


def records_with_checksums(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """All records of an archive, or none of one that torch.save was told to write without checksums."""
    records = archive.infolist()
    return records if any(record.CRC for record in records) else []


def is_large(record: zipfile.ZipInfo) -> bool:
    """Whether to compare a record with its checksum takes a while."""
    return record.file_size >= LARGE_BYTES


def load_pickle(path: Path) -> Any:
    """The content of a file older than archives; all of it is read.

    Raises:
        UserError: it is damaged, or contains Python objects.
    """
    return _load(path, mapped=False)


@lru_cache(maxsize=64)
def _check_records(path: Path, size: int, *version: int, large_later: bool) -> bool:
    """Require whole records; whether none is compressed, so that the file can be mapped. `version`: for the cache."""
    with _reading(path), zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        _require_state_dict(path, [record.filename for record in records])
        if sum(record.file_size for record in records) > max(SMALL_BYTES, MOST_EXPANSION * size):
            raise damaged_weights(path, "its records are said to be many times larger than the file")
        stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
        for record in records_with_checksums(archive):
            if large_later and stored and is_large(record):
                archive.open(record).close()  # compares its header with the directory
            else:
                _check_record(archive, record)
        return stored


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
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
        with torch.serialization.safe_globals(NUMPY_GLOBALS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # refused below, if it cannot be read
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        refused = _refused_object(error)
        if not refused and (protocol := _protocol(path)) > DEFAULT_PROTOCOL:
            raise _newer_protocol(path, protocol) from None
        if not refused:
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
    return f"If you trust the file, {_command_that_keeps_tensors(path)}"


def _command_that_keeps_tensors(path: Path) -> str:
    loaded = f"torch.load({str(path)!r}, map_location='cpu', weights_only=False)"
    tensors = "{k: kept(v) for k, v in x.items() if isinstance(v, (dict, torch.Tensor))} if isinstance(x, dict) else x"
    saved = str(path.with_name(f"{path.stem}.tensors.pt"))
    command = python_command(f"import torch; kept = lambda x: {tensors}; torch.save(kept({loaded}), {saved!r})")
    return f"keep its tensors only and give the result: {command}"


def _protocol(path: Path) -> int:
    """The pickle protocol that torch.save was told to write; 0 if torch.save did not write the file."""
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                start = file.read(64)
            return start[1] if LEGACY_MAGIC in start else 0
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(name) as record:
                return record.read(2)[1]
    except (OSError, zipfile.BadZipFile, IndexError, StopIteration):
        return 0


def _newer_protocol(path: Path, protocol: int) -> UserError:
    return UserError(
        "was saved with a pickle protocol that cannot be read without running what is in the file",
        where=path,
        value=f"pickle_protocol={protocol}",
        remedy=f"Save it without pickle_protocol; or, if you trust the file, {_command_that_keeps_tensors(path)}",
    )
