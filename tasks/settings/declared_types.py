"""The declared type of each setting, by its dotted name; what a composition has that is of another type."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from tasks.settings.schema import Config

NEEDED = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
}


def declared(key: str) -> Any:
    """The type of a setting; Any where the schema does not say."""
    type_: Any = Config
    for name in key.split("."):
        type_ = member(type_, name)
    return type_


def member(type_: Any, name: str) -> Any:
    """The type of an entry of a setting."""
    type_ = set_type(type_)
    if is_dataclass(type_) and isinstance(type_, type):
        return _hints(type_).get(name, Any)
    return get_args(type_)[1] if get_origin(type_) is dict else Any


def set_type(type_: Any) -> Any:
    """What an optional setting is where it is set."""
    if get_origin(type_) in (Union, UnionType):
        return next(part for part in get_args(type_) if part is not NoneType)
    return type_


def type_problems(value: Any, type_: Any = Config, path: str = "") -> Iterator[str]:
    """One line for each value of another type than declared: Hydra does not look at everything that it merges."""
    if type_ is Any or (value is None and set_type(type_) is not type_):
        return
    type_ = set_type(type_)
    kind = get_origin(type_) or type_
    if not isinstance(value, kind):
        needed = NEEDED.get(kind) or f"a mapping with {', '.join(_hints(kind))}"
        yield f"{path}={value}: needs {needed}"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from type_problems(item, get_args(type_)[0], f"{path}[{index}]")
    elif isinstance(value, dict) or is_dataclass(value):
        for name, item in _items(value):
            yield from type_problems(item, member(type_, name), f"{path}.{name}".lstrip("."))


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    else:
        yield from ((each.name, getattr(value, each.name)) for each in fields(value))


@cache
def _hints(schema: type) -> dict[str, Any]:
    return get_type_hints(schema)
