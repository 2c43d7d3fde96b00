"""Reads a model YAML as data: tags become plain records; nothing is imported and nothing is called.

Supported tags (HyperPyYAML): ``!new:``, ``!name:``, ``!ref <key>`` with arithmetic, and ``!apply:`` of calls that seed
random generators, which are skipped.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import UserError
from tasks.models.cosyvoice.hyperyaml.arithmetic import calculate

SEED_CALLS = ("random.seed", "numpy.random.seed", "torch.manual_seed", "torch.cuda.manual_seed_all")
TAGS = "!new:CLASS, !name:FUNCTION, !ref <key>, !apply: of " + ", ".join(SEED_CALLS)
PLAIN_DICT = "omegaconf.DictConfig"
MAX_DEPTH = 30


@dataclass(eq=False)
class Call:
    """``!new:`` or ``!name:``: the dotted name in the YAML and its keyword arguments."""

    target: str
    line: int
    partial: bool
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """``!ref``: an expression of other keys, not evaluated."""

    expression: str
    line: int


class Document:
    """A model YAML; values are resolved on access, so that an error in one part does not affect the others."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self.path = path
        self.content = content

    def __contains__(self, key: str) -> bool:
        return key in self.content

    def get(self, key: str) -> Any:
        """The value of a top-level key with its references resolved.

        Raises:
            UserError: the key is missing, or a reference in its value cannot be resolved.
        """
        if key not in self.content:
            raise UserError(f"has no key {key!r}", where=self.path, remedy=f"It has {', '.join(self.content)}")
        return self.resolve(self.content[key])

    def resolve(self, value: Any, depth: int = 0) -> Any:
        """Replace references by their values, and records of plain dicts by dicts, throughout a value.

        Raises:
            UserError: a reference names a missing key or itself, or its arithmetic fails.
        """
        if depth > MAX_DEPTH:
            raise UserError("references are circular or nested too deeply", where=self.path, remedy="Remove the cycle")
        if isinstance(value, Reference):
            return self.resolve(self._evaluate(value, depth), depth + 1)
        if isinstance(value, Call):
            return self._resolved_call(value, depth)
        if isinstance(value, dict):
            return {key: self.resolve(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item, depth + 1) for item in value]
        return value

    def _resolved_call(self, call: Call, depth: int) -> Any:
        arguments = self.resolve(call.arguments, depth + 1)
        if call.target == PLAIN_DICT:
            return arguments.get("content", {})
        return Call(call.target, call.line, call.partial, arguments)

    def _evaluate(self, reference: Reference, depth: int) -> Any:
        """The value of ``<key>``, of arithmetic with keys, or of a text with keys substituted."""
        names = re.findall(r"<([^<>]*)>", reference.expression)
        values = [self._look_up(name, reference, depth) for name in names]
        if reference.expression.strip() == f"<{names[0] if names else ''}>":
            return values[0]
        if any(isinstance(value, str) for value in values):
            return _substituted(reference.expression, values)
        return self._arithmetic(reference, values)

    def _look_up(self, name: str, reference: Reference, depth: int) -> Any:
        value: Any = self.content
        for key in re.findall(r"[^.\[\]]+", name):
            if isinstance(value, Call):
                value = value.arguments
            value = _member(value, key)
            if value is _ABSENT:
                raise self.problem(
                    "a reference names a missing key",
                    reference.line,
                    f"<{name}>",
                    f"Known keys: {', '.join(self.content)}",
                )
        return self.resolve(value, depth + 1)

    def _arithmetic(self, reference: Reference, values: list[Any]) -> int | float:
        operands = {f"_{position}": value for position, value in enumerate(values)}
        text = _substituted(reference.expression, [f"({name})" for name in operands])
        try:
            return calculate(text, operands)
        except ValueError as error:
            raise self.problem(
                "a reference cannot be evaluated",
                reference.line,
                reference.expression,
                "Use numbers, <keys>, + - * / // % and parentheses",
            ) from error

    def problem(self, what: str, line: int, value: str, remedy: str) -> UserError:
        """An error that names a line of this file."""
        return UserError(what, where=f"{self.path}:{line}", value=value, remedy=remedy)


def read_yaml(path: Path, *, replace: Mapping[str, Any] | None = None) -> Document:
    """Read a model YAML.

    Args:
        path: the file.
        replace: new values for top-level keys; keys that are not in the file are ignored.

    Raises:
        UserError: the file is missing or not YAML, or contains a tag that is not supported, such as one that would
            run code.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = _ModelLoader(text, path).get_single_data()
    except OSError as error:
        raise UserError("cannot be read", where=path, value=error.strerror, remedy="Check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        message = " ".join(str(error).split())[:300]  # PyYAML puts the position and the problem on separate lines
        raise UserError("is not a YAML file", where=path, value=message, remedy="Copy or download it again") from error
    if not isinstance(content, dict):
        raise UserError("contains no keys", where=path, value=type(content).__name__, remedy="Use a model YAML")
    known = {key: value for key, value in (replace or {}).items() if key in content}
    return Document(path, {**content, **known})


class _ModelLoader(yaml.SafeLoader):
    """SafeLoader with the tags above; every other tag is an error."""

    def __init__(self, text: str, path: Path) -> None:
        super().__init__(text)
        self.path = path

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag.startswith("!") and not node.tag.startswith(("!new:", "!name:", "!apply:")) and node.tag != "!ref":
            raise _forbidden(self.path, node, node.tag)
        return super().construct_object(node, deep=deep)


def _forbidden(path: Path, node: yaml.Node, tag: str) -> UserError:
    return UserError(
        "a tag that is not allowed here",
        where=f"{path}:{node.start_mark.line + 1}",
        value=tag,
        remedy=f"Allowed tags: {TAGS}",
    )


def _construct_call(loader: _ModelLoader, target: str, node: yaml.Node, *, partial: bool) -> Call:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        arguments = loader.construct_mapping(node, deep=True)
        return Call(target, line, partial, {str(name): value for name, value in arguments.items()})
    if isinstance(node, yaml.ScalarNode) and not node.value:
        return Call(target, line, partial)
    raise UserError(
        "arguments must be given by name", where=f"{loader.path}:{line}", value=target, remedy="Use `name: value` lines"
    )


def _construct_apply(loader: _ModelLoader, target: str, node: yaml.Node) -> None:
    if target not in SEED_CALLS:
        raise _forbidden(loader.path, node, f"!apply:{target}")


def _construct_reference(loader: _ModelLoader, node: yaml.Node) -> Reference:
    if not isinstance(node, yaml.ScalarNode):
        raise _forbidden(loader.path, node, "!ref of a list or mapping")
    return Reference(str(loader.construct_scalar(node)), node.start_mark.line + 1)


def _construct_unknown(loader: _ModelLoader, node: yaml.Node) -> None:
    raise _forbidden(loader.path, node, node.tag.replace("tag:yaml.org,2002:", "!!"))


_ModelLoader.add_constructor(None, _construct_unknown)
_ModelLoader.add_multi_constructor("!new:", functools.partial(_construct_call, partial=False))
_ModelLoader.add_multi_constructor("!name:", functools.partial(_construct_call, partial=True))
_ModelLoader.add_multi_constructor("!apply:", _construct_apply)
_ModelLoader.add_constructor("!ref", _construct_reference)
# YAML 1.1 reads 1e-5, which has no decimal point, as a string; in the original files it is a number.
_ModelLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

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
