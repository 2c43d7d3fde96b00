"""Reads a model YAML as data: tags become plain records; nothing is imported and nothing is called.

Supported tags (HyperPyYAML): ``!new:``, ``!name:``, ``!ref <key>`` with arithmetic, and ``!apply:`` of calls that seed
random generators, which are skipped. Other tags matter only where a component needs their value.
"""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import UserError, reason
from tasks.models.cosyvoice.hyperyaml.document import Document
from tasks.models.cosyvoice.hyperyaml.nodes import ORIGINAL, BoundedComposer, NodeCheck
from tasks.models.cosyvoice.hyperyaml.records import Call, Reference, Unusable, problem, quoted
from tasks.user_files import MAX_YAML_BYTES, read_text

SEED_CALLS = ("random.seed", "numpy.random.seed", "torch.manual_seed", "torch.cuda.manual_seed_all")
TAGS = "!new:CLASS, !name:FUNCTION, !ref <key>, !apply: of " + ", ".join(SEED_CALLS)
# A file that asks to run a command is refused as a whole, wherever it asks. Nothing here would run it.
COMMANDS = "(os|posix|subprocess|sys|shutil|builtins|importlib|runpy|pty|socket|ctypes|pickle)"
HOSTILE = re.compile(rf"tag:yaml\.org,2002:python/(object|name|module)|!apply:{COMMANDS}\.")


def read_yaml(path: Path, *, replace: Mapping[str, Any] | None = None) -> Document:
    """Read a model YAML.

    Args:
        path: the file.
        replace: new values for top-level keys; keys that are not in the file are ignored.

    Raises:
        UserError: the file is missing, too large, not text or not YAML, or has a tag that would run code.
    """
    content = _content(read_text(path, most=MAX_YAML_BYTES), path)
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise UserError("contains no keys", where=path, value=found, remedy="Use a model YAML")
    known = {key: value for key, value in (replace or {}).items() if key in content}
    return Document(path, {**content, **known})


def _content(text: str, path: Path) -> Any:
    try:
        loader = _ModelLoader(text, path)
        node = loader.get_single_node()
        if node is None:
            return None
        NodeCheck(path).check(node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        message = " ".join(str(error).split())  # PyYAML puts the position and the problem on separate lines
        raise problem(path, "is not a YAML file", _line(error, text), message, "Fix this line") from error
    except (ValueError, OverflowError) as error:  # from an escape sequence
        raise UserError("is not a YAML file", where=path, value=quoted(reason(error)), remedy=ORIGINAL) from error


def _line(error: yaml.YAMLError, text: str) -> int:
    mark = getattr(error, "problem_mark", None)
    return mark.line + 1 if mark else text.count("\n", 0, getattr(error, "position", 0)) + 1


class _ModelLoader(BoundedComposer):
    """SafeLoader with the tags above; every other tag becomes an `Unusable`."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if HOSTILE.match(node.tag):
            raise _hostile(self.path, node)
        if re.match(r"!(?!new:|name:|apply:|ref$)", node.tag):
            return _unusable(node)
        try:
            return super().construct_object(node, deep=deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            kind = node.tag.removeprefix("tag:yaml.org,2002:")
            raise problem(
                self.path, f"is not a valid {kind}", node.start_mark.line + 1, node.value, "Fix this value"
            ) from error

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str):
            value.encode()  # half a pair of surrogates is a ValueError
        return value


def _hostile(path: Path, node: yaml.Node) -> UserError:
    tag = node.tag.replace("tag:yaml.org,2002:", "!!")
    return problem(path, "a tag that would run code", node.start_mark.line + 1, tag, f"Allowed tags: {TAGS}")


def _unusable(node: yaml.Node, tag: str = "") -> Unusable:
    shown = tag or node.tag.replace("tag:yaml.org,2002:", "!!")
    return Unusable("a tag that is not allowed here", node.start_mark.line + 1, shown, f"Allowed tags: {TAGS}")


def _construct_call(loader: _ModelLoader, target: str, node: yaml.Node, *, partial: bool) -> Call | Unusable:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        arguments = loader.construct_mapping(node, deep=True)
        return Call(target, line, partial, {str(name): value for name, value in arguments.items()})
    if isinstance(node, yaml.ScalarNode) and not node.value:
        return Call(target, line, partial)
    if re.match(COMMANDS, target):
        raise _hostile(loader.path, node)
    return Unusable("arguments must be given by name", line, target, "Use `name: value` lines")


def _construct_apply(_loader: _ModelLoader, target: str, node: yaml.Node) -> Unusable | None:
    return None if target in SEED_CALLS else _unusable(node, f"!apply:{target}")


def _construct_reference(loader: _ModelLoader, node: yaml.Node) -> Reference | Unusable:
    if not isinstance(node, yaml.ScalarNode):
        return _unusable(node, "!ref of a list or mapping")
    return Reference(str(loader.construct_scalar(node)), node.start_mark.line + 1)


def _construct_unknown(_loader: _ModelLoader, node: yaml.Node) -> Unusable:
    return _unusable(node)


_ModelLoader.add_constructor(None, _construct_unknown)
_ModelLoader.add_multi_constructor("!new:", functools.partial(_construct_call, partial=False))
_ModelLoader.add_multi_constructor("!name:", functools.partial(_construct_call, partial=True))
_ModelLoader.add_multi_constructor("!apply:", _construct_apply)
_ModelLoader.add_constructor("!ref", _construct_reference)
# YAML 1.1 reads 1e-5, which has no decimal point, as a string; in the original files it is a number.
_ModelLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
