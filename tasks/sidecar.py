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
BFLOAT16 = "<2s"  # the upper half of a float32
USED_KEYS = {"epoch", "step", "loss_dict"}
NOTHING = ("null", "~", "")
# Of a pickled tensor, whose last bytes are count and values.
STORAGES = {
    b"DoubleStorage": "<d",
    b"FloatStorage": "<f",
    b"HalfStorage": "<e",
    b"BFloat16Storage": BFLOAT16,
    b"LongStorage": "<q",
    b"IntStorage": "<i",
}
DTYPES = {"f8": "<d", "f4": "<f", "f2": "<e", "i8": "<q", "i4": "<i", "i2": "<h", "u8": "<Q", "u4": "<I"}  # of NumPy
COUNT_OF_ONE = struct.pack("<q", 1)

# A base loader turns every node into str, list or dict, whatever its tag says.
_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def read_sidecar(path: Path, *, alone: bool) -> dict[str, Any]:
    """The mapping in a sidecar, all of its scalars as text.

    Args:
        alone: there are no weights beside it; then anything but a mapping is no sidecar, and nothing is returned.

    Raises:
        UserError: it is no regular file, too large, not UTF-8, not YAML or not a mapping; an epoch, a step or the
            losses are given twice.
    """
    text = read_text(path, most=MAX_BYTES)
    try:
        _require_shallow(text)
        content, repeated = _content(text)
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise bad_sidecar(path, "cannot be read as YAML", shortened(" ".join(str(error).split()), 300)) from None
    if not isinstance(content, dict):
        if alone:
            return {}  # notes, a list: no training wrote it
        raise bad_sidecar(path, "is not a YAML mapping", type(content).__name__)
    if repeated and not alone:
        raise bad_sidecar(path, "gives a value twice", repeated)
    return content


def integer_of(facts: dict[str, Any], key: str, sidecar: Path) -> int:
    """The integer under a key.

    Raises:
        UserError: there is none.
    """
    if key not in facts:
        raise bad_sidecar(sidecar, f"has no '{key}'", None)
    try:
        return _integer(facts[key])
    except (TypeError, ValueError, OverflowError):  # what float and int raise for nothing, text, and infinity
        raise bad_sidecar(sidecar, f"'{key}' is not an integer", facts[key]) from None


def loss_of(facts: dict[str, Any], sidecar: Path) -> tuple[float | None, str]:
    """The validation loss and how it is written; NaN for what is not a number, None where there is none.

    Raises:
        UserError: `loss_dict` is not a mapping.
    """
    losses = facts.get("loss_dict", {})
    if isinstance(losses, str) and losses in NOTHING:
        return None, ""
    if not isinstance(losses, dict):
        raise bad_sidecar(sidecar, "'loss_dict' is not a mapping", losses)
    written = losses.get("loss", "null")
    if written in NOTHING:
        return None, ""
    if not isinstance(written, str):
        return float(_pickled_number(written)), "not a number"
    try:
        loss = float(re.sub(r"\.(nan|inf)$", r"\1", written, flags=re.IGNORECASE))  # YAML's .nan is Python's nan
    except ValueError:
        loss = float("nan")
    return loss, shortened(written, MAX_LOSS_QUOTED)


def bad_sidecar(sidecar: Path, what: str, value: object) -> UserError:
    return UserError(what, where=sidecar, value=value, remedy="Restore the sidecar that training wrote, or delete it")


def _integer(written: Any) -> int:
    if isinstance(written, str) and re.fullmatch(r"[-+]?[0-9_]+", written):
        return int(written)
    number = float(written) if isinstance(written, str) else _pickled_number(written)
    if number != int(number):
        raise ValueError
    return int(number)


def _content(text: str) -> tuple[Any, str]:
    """What the YAML contains, and what it gives twice; of two values the library takes the last in silence."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return (loader.construct_document(node), _repeated(node)) if node else (None, "")
    finally:
        loader.dispose()


def _repeated(node: Any) -> str:
    lines: dict[str, list[int]] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode) and key.value in USED_KEYS:
            lines.setdefault(key.value, []).append(key.start_mark.line + 1)
            if key.value == "loss_dict" and (inner := _lines_of("loss", value)):
                lines["loss_dict.loss"] = inner
    twice = {key: numbers for key, numbers in lines.items() if len(numbers) > 1}
    return "; ".join(f"{key} in lines {' and '.join(map(str, numbers))}" for key, numbers in twice.items())


def _lines_of(name: str, node: Any) -> list[int]:
    keys = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    return [key.start_mark.line + 1 for key in keys if isinstance(key, yaml.ScalarNode) and key.value == name]


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
            case [{"args": [str(dtype), *_]}, str(data)] if dtype in DTYPES:
                number: float = struct.unpack(DTYPES[dtype], base64.b64decode(data))[0]
                return number
            case [[str(data)], *_]:
                return _tensor_value(base64.b64decode(data))
    except (struct.error, binascii.Error):
        pass
    return float("nan")


def _tensor_value(storage: bytes) -> float:
    for name, form in STORAGES.items():
        value = storage[-struct.calcsize(form) :]
        if re.search(rb"(?<!B)(?<!\w)" + name, storage) and storage[: -len(value)].endswith(COUNT_OF_ONE):
            single = form == BFLOAT16
            number: float = struct.unpack("<f" if single else form, b"\0\0" + value if single else value)[0]
            return number
    return float("nan")
