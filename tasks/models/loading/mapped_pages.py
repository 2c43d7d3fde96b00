"""Gives the pages of a mapped file back once their values are copied; until then they are memory of this process.

The peak that a receipt reports, and by which parallel steps are admitted, would be that of the file and of the copy.
"""

import contextlib
import ctypes
import mmap
import sys
from pathlib import Path

from torch import Tensor


class MappedPages:
    """The places of a file in this process's memory; none where the system does not list them.

    Args:
        file: whatever of it is mapped has not been written to: what is given back is read from the file again.
    """

    def __init__(self, file: Path) -> None:
        self._ranges = list(_ranges(file)) if sys.platform == "linux" else []

    def give_back(self, tensor: Tensor) -> None:
        """Drop the pages that lie within a tensor, which stays valid; nothing if it is not of this file."""
        if not (self._ranges and tensor.is_contiguous()):
            return
        page, end = mmap.PAGESIZE, tensor.data_ptr() + tensor.nbytes
        first, last = -(-tensor.data_ptr() // page) * page, end // page * page
        if first < last and any(first in pages and last <= pages.stop for pages in self._ranges):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)


def _ranges(file: Path) -> list[range]:
    found = []
    with contextlib.suppress(OSError, ValueError):  # without /proc
        path = str(file.resolve())
        for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
            addresses, *_, name = line.split(maxsplit=5)
            if name == path:
                first, last = (int(address, 16) for address in addresses.split("-"))
                found.append(range(first, last))
    return found
