"""A model YAML with its references, resolved on access and within bounds: an error in one part hinders no other."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.models.cosyvoice.hyperyaml.arithmetic import calculate
from tasks.models.cosyvoice.hyperyaml.records import Call, Reference, Unusable, problem, quoted

PLAIN_DICT = "omegaconf.DictConfig"
MAX_DEPTH = 30
MAX_VALUES = 20_000  # in one resolved key; references that double each other reach any number
MAX_EXPRESSION = 500  # characters
MAX_NUMBER = 2**53


class Document:
    """The content of a model YAML."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self.path = path
        self.content = content
        self._resolved = 0  # values in the key that is being resolved

    def __contains__(self, key: str) -> bool:
        return key in self.content

    def get(self, key: str) -> Any:
        """The value of a top-level key with its references resolved.

        Raises:
            UserError: the key is missing, or its value cannot be resolved.
        """
        if key not in self.content:
            known = quoted(", ".join(map(str, self.content)))
            raise UserError(f"has no key {key!r}", where=self.path, remedy=f"It has {known}")
        return self.resolve(self.content[key])

    def find(self, path: str) -> Any:
        """The resolved value under a dotted path; None if there is none. What lies beside the path is not looked at.

        Raises:
            UserError: the first key is missing, or the value cannot be resolved.
        """
        first, *rest = path.split(".")
        value = self.content[first] if rest and first in self.content else self.get(first)
        for key in rest:
            value = self._target(value)
            value = _member(value.arguments, key) if isinstance(value, Call) else _ABSENT
        return None if value is _ABSENT else self.resolve(value)

    def resolve(self, value: Any) -> Any:
        """Replace references by their values, and records of plain dicts by dicts, throughout a value.

        Raises:
            UserError: a reference names a missing key or itself, its arithmetic fails, or the value grows too large.
        """
        self._resolved = 0
        return self._resolve(value, 0)

    def problem(self, what: str, line: int, value: object, remedy: str) -> UserError:
        """An error that names a line of this file."""
        return problem(self.path, what, line, value, remedy)

    def _target(self, value: Any) -> Any:
        """What a reference to a whole key refers to, unresolved in its parts; other values are returned unchanged."""
        for _ in range(MAX_DEPTH):
            name = value.expression.strip() if isinstance(value, Reference) else ""
            if not re.fullmatch(r"<[^<>]*>", name):
                break
            value = self._raw(name[1:-1], value)
        return value

    def _resolve(self, value: Any, depth: int) -> Any:
        self._resolved += 1
        if depth > MAX_DEPTH:
            raise UserError("references are circular or nested too deeply", where=self.path, remedy="Remove the cycle")
        if self._resolved > MAX_VALUES:
            what = f"has more than {MAX_VALUES} values when its references are resolved"
            raise UserError(what, where=self.path, remedy="Use the original YAML of the model")
        if isinstance(value, Unusable):
            raise self.problem(value.what, value.line, value.value, value.remedy)
        if isinstance(value, Reference):
            return self._resolve(self._evaluate(value, depth), depth + 1)
        if isinstance(value, Call):
            return self._resolved_call(value, depth)
        if isinstance(value, dict):
            return {key: self._resolve(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self._resolve(item, depth + 1) for item in value]
        return value

    def _resolved_call(self, call: Call, depth: int) -> Any:
        arguments = self._resolve(call.arguments, depth + 1)
        if call.target == PLAIN_DICT:
            return arguments.get("content", {})
        return Call(call.target, call.line, call.partial, arguments)

    def _evaluate(self, reference: Reference, depth: int) -> Any:
        """The value of ``<key>``, of arithmetic with keys, or of a text with keys substituted."""
        if len(reference.expression) > MAX_EXPRESSION:
            raise self._bad(reference, f"a reference of more than {MAX_EXPRESSION} characters")
        names = re.findall(r"<([^<>]*)>", reference.expression)
        values = [self._resolve(self._raw(name, reference), depth + 1) for name in names]
        if reference.expression.strip() == f"<{names[0] if names else ''}>":
            return values[0]
        if any(isinstance(value, str) for value in values):
            return self._text(reference, values)
        return self._arithmetic(reference, values)

    def _raw(self, name: str, reference: Reference) -> Any:
        value: Any = self.content
        for key in re.findall(r"[^.\[\]]+", name):
            if isinstance(value, Call):
                value = value.arguments
            value = _member(value, key)
            if value is _ABSENT:
                known = f"Known keys: {quoted(', '.join(map(str, self.content)))}"
                raise self.problem("a reference names a missing key", reference.line, f"<{name}>", known)
        return value

    def _text(self, reference: Reference, values: list[Any]) -> str:
        if sum(len(value) if isinstance(value, str) else 1 for value in values) > MAX_EXPRESSION:
            raise self._bad(reference, f"a reference gives a text of more than {MAX_EXPRESSION} characters")
        if any(isinstance(value, list | dict | Call) for value in values):
            raise self._bad(reference, "a reference joins a text and a list or mapping")
        return _substituted(reference.expression, values)

    def _arithmetic(self, reference: Reference, values: list[Any]) -> int | float:
        operands = {f"_{position}": value for position, value in enumerate(values)}
        text = _substituted(reference.expression, [f"({name})" for name in operands])
        try:
            result = calculate(text, operands)
        except ValueError as error:
            raise self._bad(reference, "a reference cannot be evaluated") from error
        if not (math.isfinite(result) and abs(result) <= MAX_NUMBER):
            raise self._bad(reference, "a reference gives too large a number")
        return result

    def _bad(self, reference: Reference, what: str) -> UserError:
        remedy = "Use numbers, <keys>, + - * / // % and parentheses"
        return self.problem(what, reference.line, reference.expression, remedy)


_ABSENT = object()


def _member(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return value.get(key, _ABSENT)
    if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
        return value[int(key)]
    return _ABSENT


def _substituted(expression: str, values: list[Any]) -> str:
    remaining = iter(values)
    return re.sub(r"<[^<>]*>", lambda _: str(next(remaining)), expression)
