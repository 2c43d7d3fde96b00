"""Reads a sidecar: the `NAME.yaml` that training writes beside `NAME.pt`.

Some contain pickled Python objects under YAML tags. Tags are ignored, so nothing is ever called; of a validation loss
that is a pickled number, the bytes of the number are read.
"""

import base64
import binascii
import re
import struct
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import UserError, shortened
from tasks.user_files import read_text

MAX_BYTES = 2**22
MAX_DEPTH = 100
MAX_LOSS_QUOTED = 60
NOTHING = ("null", "~", "")
STORAGES = {b"FloatStorage": "<f", b"DoubleStorage": "<d"}  # of a pickled tensor; its last bytes are count and values
COUNT_OF_ONE = struct.pack("<q", 1)

# A base loader turns every node into str, list or dict, whatever its tag says.
_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def read_sidecar(path: Path, *, alone: bool) -> dict[str, Any]:
    """The mapping in a sidecar, all of its scalars as text.

    Args:
        alone: there are no weights beside it; then anything but a mapping is no sidecar, and nothing is returned.

    Raises:
        UserError: it is no regular file, too large, not UTF-8, not YAML or not a mapping.
    """
    text = read_text(path, most=MAX_BYTES)
    try:
        _require_shallow(text)
        content = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise bad_sidecar(path, "cannot be read as YAML", shortened(" ".join(str(error).split()), 300)) from None
    if not isinstance(content, dict):
        if alone:
            return {}  # notes, a list: no training wrote it
        raise bad_sidecar(path, "is not a YAML mapping", type(content).__name__)
    return content


def integer_of(facts: dict[str, Any], key: str, sidecar: Path) -> int:
    """The integer under a key.

    Raises:
        UserError: there is none.
    """
    try:
        return int(facts[key])
    except KeyError:
        raise bad_sidecar(sidecar, f"has no '{key}'", None) from None
    except (TypeError, ValueError):
        raise bad_sidecar(sidecar, f"'{key}' is not an integer", facts[key]) from None


def loss_of(facts: dict[str, Any], sidecar: Path) -> tuple[float | None, str]:
    """The validation loss and how it is written; NaN for what is not a number, None where there is none.

    Raises:
        UserError: `loss_dict` is not a mapping.
    """
    losses = facts.get("loss_dict", {})
    if not isinstance(losses, dict):
        raise bad_sidecar(sidecar, "'loss_dict' is not a mapping", losses)
    written = losses.get("loss", "null")
    if written in NOTHING:
        return None, ""
    if not isinstance(written, str):
        return _pickled_number(written), "not a number"
    try:
        loss = float(re.sub(r"\.(nan|inf)$", r"\1", written, flags=re.IGNORECASE))  # YAML's .nan is Python's nan
    except ValueError:
        loss = float("nan")
    return loss, shortened(written, MAX_LOSS_QUOTED)


def bad_sidecar(sidecar: Path, what: str, value: object) -> UserError:
    return UserError(what, where=sidecar, value=value, remedy="Restore the sidecar that training wrote, or delete it")


def _require_shallow(text: str) -> None:
    """The C loader recurses without a limit: some ten thousand nested brackets would crash the process."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH}")


def _pickled_number(node: Any) -> float:
    """The value of a NumPy scalar or of a tensor of one element, as yaml.dump writes them; NaN for anything else."""
    try:
        match node:
            case [{"args": ["f4" | "f8" as dtype, *_]}, str(data)]:
                return float(struct.unpack("<f" if dtype == "f4" else "<d", base64.b64decode(data))[0])
            case [[str(data)], *_]:
                return _tensor_value(base64.b64decode(data))
    except (struct.error, binascii.Error):
        pass
    return float("nan")


def _tensor_value(storage: bytes) -> float:
    for name, form in STORAGES.items():
        value = storage[-struct.calcsize(form) :]
        if re.search(rb"(?<!B)(?<!\w)" + name, storage) and storage[: -len(value)].endswith(COUNT_OF_ONE):
            return float(struct.unpack(form, value)[0])
    return float("nan")
