"""Writes TorchScript archives whose bytes depend on the module alone.

torch.jit.save adds source positions with absolute paths of this checkout, an id made of them, and the file's name.
"""

import struct
import zipfile
from pathlib import Path

import torch
from torch.jit import ScriptModule

from tasks.runtimes.base import METADATA_RECORD

ALIGNMENT = 64  # bytes; where torch puts each record, so that it can be mapped
LOCAL_HEADER = 30  # bytes of a zip record before its name
TIMELESS = (1980, 1, 1, 0, 0, 0)
CHUNK = 2**24


def save_reproducibly(module: ScriptModule, path: Path, *, about: str) -> int:
    """Write the module with the text `about` as its extra file `voxkiln.json`; returns the bytes of stored tensors.

    Source positions are only used in error messages; torch.jit.load and C++ read the archive without them.
    """
    draft = path.with_name(f"{path.name}.draft")
    try:
        torch.jit.save(module, draft, _extra_files={METADATA_RECORD: about})
        return _rewritten(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _rewritten(draft: Path, path: Path) -> int:
    tensors = 0
    with zipfile.ZipFile(draft) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for record in source.infolist():
            name = record.filename.split("/", 1)[1]
            if name.endswith(".debug_pkl") or name == ".data/serialization_id":
                continue
            tensors += record.file_size if name.startswith(("constants/", "data/")) else 0
            _copy(source, record, target, f"archive/{name}")
    return tensors


def _copy(source: zipfile.ZipFile, record: zipfile.ZipInfo, target: zipfile.ZipFile, name: str) -> None:
    copy = zipfile.ZipInfo(name, TIMELESS)
    copy.file_size = record.file_size
    copy.extra = _padding(target.fp.tell() if target.fp else 0, name)
    with source.open(record) as read, target.open(copy, "w") as write:
        while chunk := read.read(CHUNK):
            write.write(chunk)


def _padding(offset: int, name: str) -> bytes:
    """A zip extra field that moves the record's data to the next multiple of ALIGNMENT, as torch's own 'FB' does."""
    start = offset + LOCAL_HEADER + len(name.encode()) + struct.calcsize("<2sH")
    size = -start % ALIGNMENT
    return struct.pack("<2sH", b"FB", size) + b"Z" * size
