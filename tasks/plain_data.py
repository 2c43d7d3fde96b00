"""Settings as plain JSON values, for keys, receipts and jobs; the small text files that contain them."""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from tasks.errors import UserError, reason

MAX_BYTES = 2**20  # of a small text file, of which real ones have some 10 kB
BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
SHOWN_BYTES = 12


def plain(value: Any) -> Any:
    """Dataclasses, enums and containers as JSON-plain values."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    return value


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted keys; lists count as values."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for name, item in value.items():
        leaves |= flat(item, f"{prefix}.{name}" if prefix else str(name))
    return leaves


def read_small_text(path: Path) -> str:
    """A text file that a user gives: UTF-8, with or without a byte order mark.

    Raises:
        UserError: it is missing, no regular file (a FIFO would never end), larger than 1 MiB, or not UTF-8.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError("is not a regular file", where=path, remedy="Put the file itself there")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        cause = getattr(error, "strerror", None) or reason(error)
        raise UserError("cannot be read", where=path, value=cause, remedy="Check the path") from error
    if len(content) > MAX_BYTES:
        raise UserError(f"is larger than {MAX_BYTES} bytes", where=path, remedy="Put the right file there")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, content, error.start) from error


def _not_utf8(path: Path, content: bytes, start: int) -> UserError:
    encoding = BYTE_ORDER_MARKS.get(content[:2])
    if not encoding and b"\0" in content:
        return UserError("is a binary file, not text", where=path, remedy="Put the right file there")
    line = content.count(b"\n", 0, start) + 1
    again = f"iconv -f {encoding or 'ENCODING'} -t UTF-8" + ("" if encoding else ", where ENCODING is GBK for example")
    return UserError(
        f"is not UTF-8{f' but {encoding}' if encoding else ''}",
        where=f"{path}:{line}",
        value=str(content[start : start + SHOWN_BYTES]),
        remedy=f"Save it as UTF-8, in an editor or by {again}",
    )


def read_json_object(path: Path) -> dict[str, Any]:
    """What a file of our own contains; nothing if it is missing or damaged, because a run was killed for example."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # nested too deep
        return {}
    return content if isinstance(content, dict) else {}


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
