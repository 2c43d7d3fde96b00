"""The receipt beside an artifact: from what, by what code and with which libraries it was made.

It is written last, by rename, and is the truth about freshness: a step is fresh when its outputs are what the
receipt says they are and the ingredients of its key have not changed. Names and bytes count, never times.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.plain_data import flat, read_json_object


@dataclass(frozen=True)
class Ingredients:
    """Everything that decides the bytes of a step's outputs."""

    action: str
    params: dict[str, Any]
    inputs: dict[str, str]  # role -> sha256
    code: dict[str, str]  # module -> sha256 of its syntax tree
    libraries: dict[str, str]  # distribution -> version

    @property
    def key(self) -> str:
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Receipt:
    """What one run of a step left behind.

    Attributes:
        outputs: file name -> {"sha256", "size" in bytes}; includes files beyond the declared ones (``X.onnx.data``).
        facts: what the action reports about its work.
        run: seconds, peak memory in bytes, tool versions, the paths that were read; for people, not for freshness.
    """

    step: str
    ingredients: Ingredients
    outputs: dict[str, dict[str, Any]]
    facts: dict[str, Any]
    run: dict[str, Any]

    def write(self, path: Path) -> None:
        write_atomically(
            path, json.dumps({"key": self.ingredients.key, **asdict(self)}, indent=2, sort_keys=True) + "\n"
        )

    @classmethod
    def read(cls, path: Path) -> "Receipt | None":
        """The receipt at `path`, or None if there is none that can be read and trusted: then nothing is known."""
        data = read_json_object(path)
        try:
            ingredients = Ingredients(**data["ingredients"])
            outputs = {name: {key: told[key] for key in ("sha256", "size")} for name, told in data["outputs"].items()}
            receipt = cls(data["step"], ingredients, outputs, data["facts"], data["run"])
        except (KeyError, TypeError, AttributeError):
            return None
        return receipt if data.get("key") == ingredients.key else None


def changes(old: Ingredients, new: Ingredients) -> list[str]:
    """What differs between two sets of ingredients, in words, the most telling first."""
    return [
        *([f"action: {old.action} -> {new.action}"] if old.action != new.action else []),
        *_mapping_changes(flat(old.params), flat(new.params)),
        *_input_changes(old.inputs, new.inputs),
        *(f"code changed: {module}" for module in _changed(old.code, new.code)),
        *_mapping_changes(old.libraries, new.libraries),
    ]


def _input_changes(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for role in _changed(old, new):
        if role not in new:
            yield f"input no longer used: {role}"
        elif role not in old:
            yield f"new input: {role}"
        else:
            yield f"input changed: {role} {old[role][:8]} -> {new[role][:8]}"


def _mapping_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in _changed(old, new):
        yield f"{key}: {old.get(key, 'unset')} -> {new.get(key, 'unset')}"


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [key for key in {**new, **old} if old.get(key) != new.get(key)]


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
