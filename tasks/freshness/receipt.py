"""The receipt beside an artifact: from what, by what code and with which libraries it was made.

It is written last, by rename, and decides freshness: a step is fresh when its outputs are what the receipt describes
and the ingredients of its key have not changed. Names and bytes count, never times.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tasks.plain_data import flat, read_json_object, write_atomically

DIGEST = re.compile(r"[0-9a-f]{64}")
NAME_BYTES = 255  # the longest name in a folder that file systems have
PATH_BYTES = 1000  # of a name with its folders: leaves room for the folder of the receipt


class Each(NamedTuple):
    """A mapping of any number of entries."""

    key: Callable[[str], bool]
    item: Any


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and DIGEST.fullmatch(value) is not None


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_file_below(name: str) -> bool:
    """Whether a name stays in the folder of the receipt: files that no longer belong to a step are removed by it."""
    parts = name.split("/")
    return ".." not in parts and all(map(_is_file_name, parts)) and len(name.encode()) <= PATH_BYTES


def _is_file_name(name: str) -> bool:
    """Whether a file system could have a file of this name; to ask it for any other is an error."""
    try:
        return 0 < len(name.encode()) <= NAME_BYTES and "\0" not in name
    except UnicodeEncodeError:  # half a pair of surrogates
        return False


SCHEMA = {
    "key": _is_digest,
    "step": _is_text,
    "ingredients": {
        "action": _is_text,
        "params": _is_mapping,
        "inputs": Each(_is_text, _is_digest),
        "libraries": Each(_is_text, _is_text),
        "code": Each(_is_text, _is_text),
    },
    "outputs": Each(_is_file_below, {"sha256": _is_digest, "size": _is_size}),
    "results": _is_mapping,
    "execution": _is_mapping,
}


@dataclass(frozen=True)
class Ingredients:
    """Everything that decides the bytes of a step's outputs.

    Attributes:
        action: ``module:function``.
        params: JSON-plain.
        inputs: role -> SHA-256.
        libraries: distribution -> version.
        code: module -> digest of its syntax tree, of the modules that the action was seen to use.
    """

    action: str
    params: dict[str, Any]
    inputs: dict[str, str]
    libraries: dict[str, str]
    code: dict[str, str]

    @property
    def key(self) -> str:
        text = json.dumps(vars(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Receipt:
    """What one execution of a step left behind.

    Attributes:
        outputs: file name -> {"sha256", "size" in bytes}; includes files beyond the declared ones (``X.onnx.data``).
        results: what the action reports about its work.
        execution: seconds, peak memory in bytes, tool versions, the paths that were read; not for freshness.
    """

    step: str
    ingredients: Ingredients
    outputs: dict[str, dict[str, Any]]
    results: dict[str, Any]
    execution: dict[str, Any]

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the action remarked, see `tasks.child.outcome.Outcome`."""
        remarks = self.results.get("remarks")
        return tuple(map(str, remarks)) if isinstance(remarks, list) else ()

    def write(self, path: Path) -> None:
        write_atomically(
            path, json.dumps({"key": self.ingredients.key, **asdict(self)}, indent=2, sort_keys=True) + "\n"
        )

    @classmethod
    def read(cls, path: Path, outputs: Collection[Path] = ()) -> "Receipt | None":
        """The receipt at `path`, or None if there is none that can be read and trusted: then nothing is known.

        Args:
            outputs: files that it must describe.
        """
        data = read_json_object(path)
        if not _fits(data, SCHEMA):
            return None
        ingredients = Ingredients(**data["ingredients"])
        names = {file.relative_to(path.parent).as_posix() for file in outputs}
        if data["key"] != ingredients.key or not names <= data["outputs"].keys():
            return None
        return cls(data["step"], ingredients, data["outputs"], data["results"], data["execution"])


def _fits(value: Any, schema: Any) -> bool:
    """Whether a value has the form of a receipt: exactly the keys of a schema, or every key and value of one kind."""
    if callable(schema) and not isinstance(schema, Each):
        return bool(schema(value))
    if not isinstance(value, dict):
        return False
    if isinstance(schema, Each):
        return all(schema.key(key) and _fits(item, schema.item) for key, item in value.items())
    return value.keys() == schema.keys() and all(_fits(value[key], schema[key]) for key in schema)


def changes(old: Ingredients, new: Ingredients) -> list[str]:
    """What differs between two sets of ingredients, in words, the most telling first."""
    if old == new:
        return []
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
