"""A double of the `tensorrt` module, generated from what the real bindings of one version have.

It rejects every class, member, enum name, argument and assignment that the real bindings reject, and records each
call. What the calls do is in `tests/support/tensorrt_simulation.py`.
"""

import enum
import inspect
import json
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

API = Path(__file__).parents[1] / "golden" / "tensorrt_api"
VERSIONS = ("10.13.3", "11.4.0")
SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
LONGEST_NAME = 128
BUILTIN = {"str": str, "bool": bool, "float": float, "tuple": tuple, "list": list, "object": object}
MADE = object()  # what the simulation passes to make an instance of a class that has no constructor

Behaviour = Callable[..., Any]


@dataclass(frozen=True)
class Call:
    """One recorded use: `class.member` with its arguments, or an assignment `class.property=` with the value."""

    name: str
    arguments: tuple[Any, ...]


class Bindings:
    """One version's bindings.

    Args:
        version: "10.13.3" or "11.4.0".
        behaviours: "Class.method" -> function(self, *arguments), "Class.property" -> function(self).

    Attributes:
        module: what `import tensorrt` would give.
        calls: every call and assignment so far.
    """

    def __init__(self, version: str, behaviours: Mapping[str, Behaviour]) -> None:
        api = json.loads((API / f"{version}.json").read_text())
        self.calls: list[Call] = []
        self.behaviours = behaviours
        self.module: Any = types.ModuleType("tensorrt")
        self.module.__version__ = api["version"]
        self.classes: dict[str, type] = {}
        self._generate(api["classes"])
        for name, made in self.classes.items():
            setattr(self.module, name, made)

    def names(self) -> set[str]:
        """The names of all recorded calls."""
        return {call.name for call in self.calls}

    def arguments(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of every recorded call of that name."""
        return [call.arguments for call in self.calls if call.name == name]

    def _generate(self, classes: Mapping[str, Any]) -> None:
        for name, content in classes.items():
            if "enum" in content:
                self.classes[name] = _enumeration(name, content["enum"])
        severity = _enumeration("Severity", {name: number for number, name in enumerate(SEVERITIES)})
        for name, content in classes.items():
            if "members" in content:
                self.classes[name] = self._class(name, content["members"], severity)
        self.classes["Logger"].__bases__ = (self.classes["ILogger"],)

    def _class(self, name: str, members: Mapping[str, Any], severity: type) -> type:
        body: dict[str, Any] = {"__init__": self._constructor(name, members["__init__"]["signatures"])}
        body["__setattr__"] = _refusing_setattr(name, members)
        for member, facts in members.items():
            if facts["kind"] == "property":
                body[member] = self._property(name, member, settable=facts["settable"])
            elif member == "Severity":
                body |= {"Severity": severity, **{label: getattr(severity, label) for label in SEVERITIES}}
            elif facts["kind"] == "method" and member != "__init__":
                body[member] = self._method(name, member, facts["signatures"])
        base = {"Dims": tuple, "IHostMemory": bytes}.get(name, _Instance)
        if base is not _Instance:  # immutable: made by __new__, compared and read like the builtin
            body = {key: value for key, value in body.items() if key not in ("__init__", "__setattr__")}
        return type(name, (base,), body)

    def _constructor(self, owner: str, signatures: list[str]) -> Behaviour:
        overloads = [_Signature(text, self) for text in signatures]

        def init(this: Any, *arguments: Any, **named: Any) -> None:
            object.__setattr__(this, "_set", {})
            if arguments[:1] == (MADE,):
                this._set.update(named)
                return
            if not overloads:
                raise TypeError(f"tensorrt.{owner}: No constructor defined!")
            bound = _bind(overloads, f"{owner}.__init__", arguments, named)
            self.calls.append(Call(owner, bound))
            if behaviour := self.behaviours.get(owner):
                behaviour(this, *bound)

        return init

    def _method(self, owner: str, member: str, signatures: list[str]) -> Behaviour:
        overloads, name = [_Signature(text, self) for text in signatures], f"{owner}.{member}"

        def method(this: Any, *arguments: Any, **named: Any) -> Any:
            bound = _bind(overloads, name, arguments, named)
            self.calls.append(Call(name, bound))
            return self._behaviour(name)(this, *bound)

        return method

    def _property(self, owner: str, member: str, *, settable: bool) -> property:
        name = f"{owner}.{member}"

        def read(this: Any) -> Any:
            if member in this._set:
                return this._set[member]
            return self._behaviour(name)(this)

        def write(this: Any, value: Any) -> None:
            if name == "INetworkDefinition.name" and len(value) > LONGEST_NAME:
                raise ValueError(f"{name} takes {LONGEST_NAME} characters")
            self.calls.append(Call(f"{name}=", (value,)))
            this._set[member] = value

        return property(read, write if settable else None)

    def _behaviour(self, name: str) -> Behaviour:
        if name not in self.behaviours:
            raise NotImplementedError(f"{name} exists in TensorRT; the simulation does not say what it does")
        return self.behaviours[name]


class _Instance:
    """The base of every generated class; `_set` holds assigned properties and the simulation's state."""

    _set: dict[str, Any]


def _refusing_setattr(owner: str, members: Mapping[str, Any]) -> Behaviour:
    """A C++ object takes assignments to its settable properties only; a Python subclass takes its own as well."""

    def assign(this: Any, name: str, value: Any) -> None:
        is_property = members.get(name, {}).get("kind") == "property"
        if not is_property and type(this).__name__ == owner:
            raise AttributeError(f"'tensorrt.{owner}' object has no attribute '{name}' that can be set")
        object.__setattr__(this, name, value)

    return assign


def _enumeration(name: str, values: Mapping[str, int]) -> type:
    """Like pybind11's: convertible to int, no arithmetic, only its own names; two names may share a number."""
    made: Any = enum.Enum(name, dict(values))  # type: ignore[misc]
    made.__int__ = made.__index__ = lambda this: this.value
    return made


@dataclass(frozen=True)
class _Signature:
    text: str
    bindings: Bindings

    @property
    def parameters(self) -> list[tuple[str, str, bool]]:
        """(name, type, has a default) of every parameter but self."""
        inside = re.search(r"\((.*)\) ->", self.text)
        if inside is None:
            raise ValueError(self.text)
        parts = _split(inside.group(1))[1:]
        found = [re.fullmatch(r"(\w+): (.+?)(?: = (.+))?", part) for part in parts]
        return [(m.group(1), m.group(2).rpartition("tensorrt.")[2], m.group(3) is not None) for m in found if m]

    def bind(self, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The arguments in order, or None if they do not fit this overload."""
        parameters = self.parameters
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        wanted = [
            inspect.Parameter(name, kind, default=None if optional else inspect.Parameter.empty)
            for name, _, optional in parameters
        ]
        try:
            bound = inspect.Signature(wanted).bind(*arguments, **named)
        except TypeError:
            return None
        types_of = {name: kind for name, kind, _ in parameters}
        fits = all(self._fits(value, types_of[name]) for name, value in bound.arguments.items())
        return tuple(bound.arguments.values()) if fits else None

    def _fits(self, value: Any, kind: str) -> bool:
        kind = kind.rpartition("::")[2] if "::" in kind else kind
        if kind in ("int", "SupportsInt", "typing.SupportsInt"):
            return isinstance(value, int) and not isinstance(value, bool)
        if kind == "Dims":
            return isinstance(value, tuple | list) and all(type(size) is int for size in value)
        if kind in ("buffer", "typing_extensions.Buffer"):
            return isinstance(value, bytes | bytearray | memoryview)
        if kind.startswith("ILogger.") or kind in self.bindings.classes:
            expected = self.bindings.classes.get(kind, enum.Enum)
            return isinstance(value, expected)
        if kind in BUILTIN:
            return isinstance(value, BUILTIN[kind])
        return isinstance(value, _Instance) or value is None  # of a class that the files name and do not describe


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter in "[<(") - (letter in "]>)")
        if letter == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    return [*parts, text[start:].strip()]


def _bind(
    overloads: list[_Signature], name: str, arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[Any, ...]:
    for signature in overloads:
        bound = signature.bind(arguments, named)
        if bound is not None:
            return bound
    supported = "\n".join(signature.text for signature in overloads)
    raise TypeError(f"{name}(): incompatible function arguments {arguments} {dict(named)}. Supported:\n{supported}")
