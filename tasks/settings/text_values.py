"""Text settings are what was typed: `2025_12_03` is no number, and a path may have any character.

Hydra's grammar decides the type of a value by its looks, before it knows the setting. Here the schema is asked first,
and what is text there is quoted for Hydra. Quotes that were typed, `null` where a setting may be unset, and `${...}`
keep their meaning.
"""

import re
import shlex
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin

from hydra.core.override_parser.types import Quote, QuotedString

from tasks.settings.declared_types import declared, member, set_type

QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)  # as Hydra's lexer has it
PIECE = re.compile(r"([,:\[{]\s*)(?:" + QUOTED.pattern + r")|.", re.DOTALL)  # quotes begin where a value does
LIST, MAPPING = ("[", "]"), ("{", "}")


def quoted(key: str, value: str) -> str:
    """`value` as typed for the setting `key`, with all that is text there in Hydra's quotes.

    Raises:
        ValueError: the setting is a list of texts, and the value has no brackets.
    """
    type_ = declared(key)
    if set_type(type_) is str:
        return _quoted_text(value, type_)
    if type_ == list[str] and value[:1] not in ("[", "'", '"', "$"):
        raise ValueError(f"needs a list: {shlex.quote(f'{key}=[{value}]')}")
    return ",".join(_quoted_in(part, type_) for part in _split(value))  # a sweep's choices, or the only value


def _quoted_in(value: str, type_: Any) -> str:
    bare = value.strip()
    if set_type(type_) is str:
        return _quoted_text(bare, type_)
    type_, brackets = set_type(type_), (bare[:1], bare[-1:])
    if brackets == LIST and get_origin(type_) is list:
        return f"[{_joined(bare, lambda item: _quoted_in(item, get_args(type_)[0]))}]"
    if brackets == MAPPING and (is_dataclass(type_) or get_origin(type_) is dict):
        return f"{{{_joined(bare, lambda item: _quoted_entry(item, type_))}}}"
    return value


def _joined(bracketed: str, quote: Callable[[str], str]) -> str:
    return ",".join(quote(item) for item in _split(bracketed[1:-1]))


def _quoted_entry(entry: str, type_: Any) -> str:
    name, colon, value = entry.partition(":")
    return f"{name}{colon}{_quoted_in(value, member(type_, name.strip()))}" if colon else entry


def _quoted_text(value: str, type_: Any) -> str:
    unset = value == "null" and type_ is not str
    return value if not value or unset or QUOTED.fullmatch(value) else QuotedString(value, Quote.single).with_quotes()


def _split(text: str) -> list[str]:
    """The parts between commas, but for commas in brackets and in quotes."""
    parts, depth = [""], 0
    for piece in PIECE.finditer(f",{text}"):
        first = piece[0][0]
        if first == "," and depth == 0:
            parts.append(piece[0][1:])
        else:
            parts[-1] += piece[0]
        depth += (first in "[{") - (first in "]}")
    return parts[1:]
