"""Writes a checkpoint whose tensors are computed one after the other; its digest and the disk's work go on meanwhile.

torch.save needs all values at once, and the file would be read again for its digest. Here its own pickler is given
tensors without values, and each storage takes its turn in the archive as soon as it is known: the same bytes, but only
a few pieces in memory.
"""

import contextlib
import hashlib
import os
import pickle
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Self

import torch
from torch import Tensor, UntypedStorage

from tasks.models.loading.archive import DEFAULT_PROTOCOL

PENDING_BYTES = 2**26  # written, but not digested yet
TO_DISK_BYTES = 2**28  # written, but still in the system's memory
LARGE_BYTES = 2**20  # no header of an archive is that large


def save_piecewise(layout: Mapping[str, Tensor], values: Iterator[Tensor], path: Path) -> str:
    """Write a flat dict of tensors and return the file's SHA-256; nothing is left behind if that fails.

    Args:
        layout: what is saved; of its tensors everything but the values counts. Tied ones share their storage.
        values: for each storage of `layout`, in order, a tensor that has the whole of it.
    """
    try:
        with path.open("wb") as file, _Digesting(file) as digesting:
            _save(dict(layout), values, digesting)
            return digesting.hexdigest()
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _save(layout: dict[str, Tensor], values: Iterator[Tensor], file: "_Digesting") -> None:
    archive = torch.serialization._open_zipfile_writer(file).file_like  # type: ignore[arg-type]
    try:
        torch.serialization._save(layout, _Filled(archive, values, file), pickle, DEFAULT_PROTOCOL, False)
    except BaseException:
        with contextlib.suppress(RuntimeError, OSError):  # PyTorch aborts where an archive is left unfinished
            archive.write_end_of_file()
        raise
    archive.write_end_of_file()


class _Digesting:
    """A file that is only written, digested by a second thread meanwhile, and brought to the disk by a third."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1)
        self._small = bytearray()  # written, but not handed to the thread yet
        self._pending: deque[tuple[int, Future[None]]] = deque()
        self._disk = ThreadPoolExecutor(1)
        self._to_disk: Future[None] | None = None
        self._written = 0  # since then
        self.storage: UntypedStorage | None = None  # whose bytes are written next

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._disk.shutdown()

    def write(self, data: Any) -> int:
        """`data` is the archive writer's and only valid for now; what lasts is the storage that it comes from."""
        storage = self.storage
        if storage is not None and len(data) == storage.nbytes() >= LARGE_BYTES:
            self._hand_over_small()
            self._hand_over(_bytes_of(storage))
        else:
            self._small += data
            if len(self._small) >= LARGE_BYTES:
                self._hand_over_small()
        count = self._file.write(data)
        self._written += count
        if self._written >= TO_DISK_BYTES:
            self._bring_to_disk()
        return count

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        self._hand_over_small()
        self._wait(most_pending=0)
        if self._to_disk:
            self._to_disk.result()
        return self._sha256.hexdigest()

    def _bring_to_disk(self) -> None:
        """Whoever needs the file on the disk in the end would wait for the whole of it; errors are the disk's."""
        if self._to_disk is None or self._to_disk.done():
            if self._to_disk:
                self._to_disk.result()
            self._to_disk = self._disk.submit(os.fsync, self._file.fileno())
            self._written = 0

    def _hand_over_small(self) -> None:
        self._hand_over(memoryview(bytes(self._small)))
        self._small.clear()

    def _hand_over(self, data: memoryview) -> None:
        self._pending.append((data.nbytes, self._thread.submit(self._sha256.update, data)))
        self._wait(most_pending=PENDING_BYTES)

    def _wait(self, *, most_pending: int) -> None:
        while self._pending and sum(size for size, _ in self._pending) > most_pending:
            self._pending.popleft()[1].result()


class _Filled:
    """Stands before an archive writer and replaces the storages without values."""

    def __init__(self, archive: Any, values: Iterator[Tensor], file: _Digesting) -> None:
        self._archive, self._values, self._file = archive, values, file

    def write_record(self, name: str, data: Any, size: int) -> None:
        if isinstance(data, UntypedStorage):
            data = self._file.storage = next(self._values).untyped_storage()
            if data.nbytes() != size:
                raise ValueError(f"{name} has {data.nbytes()} bytes, its layout {size}")
        self._archive.write_record(name, data, size)
        self._file.storage = None


def _bytes_of(storage: UntypedStorage) -> memoryview:
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy().data
