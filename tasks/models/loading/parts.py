"""Reads parts of the tensors in a checkpoint, where possible from the file into memory that is used again.

Reading through the mapping would keep each page in the process's memory for as long as the checkpoint is open, and take
a page fault for each few of them.
"""

import mmap
import os
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from tasks.errors import UserError
from tasks.models.loading.archive import compare_large, is_large, is_mapped
from tasks.models.loading.checkpoint_file import open_checkpoint
from tasks.user_files import weights_format

HEADER_BYTES = 30  # of a record in a zip archive, before its name and other fields of any length
LENGTHS = (26, 28)  # where in it those lengths are


class CheckpointParts:
    """An open checkpoint, as `open_checkpoint` opens it, but for the checksums of the large records of an archive.

    Attributes:
        tensors: by name. Their shapes and dtypes cost nothing; values that are looked at stay in memory.
        checksums: CRC-32 of the tensors that are a large record from beginning to end, by name; for who reads them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors = open_checkpoint(path, large_later=True)
        self._file = path.open("rb", buffering=0)
        self._is_mapped = weights_format(path) == "archive" and is_mapped(path, large_later=True)
        records = _records(path) if self._is_mapped else {}
        self._positions = positions(self.tensors, {at: record.file_size for at, record in records.items()})
        self._records = {name: records[at] for name, at in self._positions.items() if at in records}
        self.checksums = {
            name: record.CRC
            for name, record in self._records.items()
            if record.CRC and is_large(record) and record.file_size == self.tensors[name].nbytes
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def compare_large(self, *, but: Iterable[str]) -> None:
        """Compare the large records with their checksums, except those of tensors that have one in `checksums`.

        Raises:
            UserError: the file is damaged.
        """
        if self._is_mapped:  # otherwise it was done when the file was opened
            compare_large(self.path, but={self._records[name].filename for name in but})

    def part(self, name: str, start: int, memory: Tensor) -> Tensor:
        """Elements of a tensor from `start` on, flattened: as many as `memory` has, which may be where they are then.

        Raises:
            UserError: the file ends before them.
        """
        tensor = self.tensors[name]
        if name not in self._positions:
            return tensor.flatten()[start : start + memory.numel()]
        place = self._positions[name] + start * tensor.itemsize
        unread = memory.view(torch.uint8).numpy().data
        while unread:
            count = os.preadv(self._file.fileno(), [unread], place)
            if not count:
                raise UserError("has become shorter while it was read", where=self.path, remedy="Run again")
            unread, place = unread[count:], place + count
        return memory


def _records(path: Path) -> dict[int, zipfile.ZipInfo]:
    """The records of an archive by the position of their data; nothing if tensors are no copies of the data."""
    found = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for record in archive.infolist():
            file.seek(record.header_offset)
            header = file.read(HEADER_BYTES)
            skipped = sum(int.from_bytes(header[at : at + 2], "little") for at in LENGTHS)
            position = record.header_offset + HEADER_BYTES + skipped
            found[position] = record
            if record.filename.endswith("/byteorder"):  # not read as a record: it may have no checksum
                file.seek(position)
                if file.read(record.file_size) != sys.byteorder.encode():
                    return {}
    return found


def positions(tensors: Mapping[str, Tensor], records: Mapping[int, int]) -> dict[str, int]:
    """Where the bytes of contiguous tensors begin in the file that they are mapped from; nothing if that is in doubt.

    PyTorch does not tell where it has mapped the file. Only with the right beginning, a multiple of the page size, does
    every storage lie where a record does.
    """
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors.values() if t.nbytes}
    first = min(storages, default=0)
    beginnings = {first - position for position in records if (first - position) % mmap.PAGESIZE == 0}
    fitting = [begin for begin in beginnings if _fits(storages, records, begin)]
    if len(fitting) != 1:
        return {}
    return {name: tensor.data_ptr() - fitting[0] for name, tensor in tensors.items() if _is_plain(tensor)}


def _is_plain(tensor: Tensor) -> bool:
    """Whether the values of a tensor are its bytes in memory, in order."""
    return tensor.nbytes > 0 and tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()


def _fits(storages: Mapping[int, int], records: Mapping[int, int], begin: int) -> bool:
    return all(records.get(address - begin) == size for address, size in storages.items())
