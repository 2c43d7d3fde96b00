"""Recognises that the disk or its permissions are at fault, not the code, and names what the user can do."""

import errno
import shutil
from pathlib import Path

from tasks.errors import reason

DISK_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.ENOTDIR,
    errno.EEXIST,
}  # fmt: skip

# How PyTorch's writer words the same, in an error or when it aborts the process.
WRITE_FAILED = ("PytorchStreamWriter failed", "file write failed", "unexpected pos")
FULL_BYTES = 1 << 20  # with less than this free, any error while writing is taken for a full disk


def is_disk_error(error: Exception, folder: Path) -> bool:
    """PyTorch's and ONNX's writers raise plain RuntimeErrors when the disk is full."""
    if isinstance(error, OSError):
        return error.errno in DISK_ERRORS
    if any(phrase in str(error) for phrase in WRITE_FAILED):
        return True
    return free_bytes(folder) < FULL_BYTES


def disk_error_message(error: Exception, folder: Path) -> str:
    return disk_message(getattr(error, "filename", None) or folder, getattr(error, "strerror", None) or reason(error))


def disk_message(where: Path | str, why: str) -> str:
    """What to report to a user whose disk does not take what is written."""
    return (
        f"{where}: cannot write: {why} ({free_bytes(Path(where)) / 1e6:,.0f} MB free). "
        "Free space, fix the permissions, or write elsewhere: artifacts=DIR. Nothing half-written was left."
    )


def free_bytes(place: Path) -> int:
    """Of the disk of a file or folder, which need not exist yet."""
    folder = next(path for path in (place, *place.absolute().parents) if path.is_dir())
    return shutil.disk_usage(folder).free
