"""Settings as plain JSON values, for keys, receipts and jobs; the files of our own that contain them."""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """Dataclasses, enums and containers as JSON-plain values."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    return value


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted keys; lists count as values."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for name, item in value.items():
        leaves |= flat(item, f"{prefix}.{name}" if prefix else str(name))
    return leaves


def read_json_object(path: Path) -> dict[str, Any]:
    """What a file of our own contains; nothing if it is missing or damaged, because a run was killed for example."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # nested too deep
        return {}
    return content if isinstance(content, dict) else {}


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, also after a power cut; or leave nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
