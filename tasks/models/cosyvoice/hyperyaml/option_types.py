"""Checks options of a YAML against the annotations of what is built with them, before it is built.

Without this a layer takes True for 1, a Dropout takes NaN, and a size of 80.0 fails somewhere inside PyTorch.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

MAX_ITEMS = 64  # of a list: stages, kernel sizes, dilations
MAX_INTEGER = 2**31 - 1
NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def wrong_options(constructor: Callable[..., Any], options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The options with a value that the constructor's annotations do not allow, each with what it must be."""
    parameters = inspect.signature(constructor, eval_str=True).parameters
    for name, value in options.items():
        annotation = parameters[name].annotation if name in parameters else object
        if wanted := _mismatch(value, annotation) or _out_of_bounds(value):
            yield name, wanted


def _mismatch(value: Any, annotation: Any) -> str:
    """What a value must be; empty where it fits, or where the annotation does not tell."""
    if get_origin(annotation) is UnionType:
        wanted = [_mismatch(value, kind) for kind in get_args(annotation)]
        return "" if "" in wanted else " or ".join(wanted)
    if annotation is NoneType:
        return "" if value is None else "null"
    if get_origin(annotation) is Sequence:
        return _items_mismatch(value, *get_args(annotation))
    if get_origin(annotation) is Mapping:
        values = value.values() if isinstance(value, dict) else [None]
        return "" if not any(_mismatch(each, get_args(annotation)[1]) for each in values) else "a mapping of numbers"
    if annotation in NAMES:
        return "" if _is(value, annotation) else NAMES[annotation]
    return ""


def _items_mismatch(value: Any, kind: Any) -> str:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ITEMS:
        return f"a list of 1 to {MAX_ITEMS} items"
    return "a list of whole numbers" if any(_mismatch(item, kind) for item in value) else ""


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _out_of_bounds(value: Any) -> str:
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return next(filter(None, map(_out_of_bounds, items)), "")
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return f"within {MAX_INTEGER}"
    return ""
