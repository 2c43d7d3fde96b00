"""Settings from plain JSON values, strictly: the inverse of `tasks.plain_data.plain`."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

Settings = TypeVar("Settings")


def from_plain(type_: Callable[..., Settings], value: Any) -> Settings:
    """An object of a dataclass of the schema.

    Raises:
        TypeError, ValueError: the value is not what such an object would be written as.
    """
    made: Settings = _reader(type_)(value)
    return made


@cache
def _reader(type_: Any) -> Callable[[Any], Any]:
    """What makes a value of a declared type; for each type made once, as there are hundreds of values."""
    kind, inner = get_origin(type_) or type_, [part for part in get_args(type_) if part is not NoneType]
    if is_dataclass(kind):
        return _dataclass_reader(kind)
    if kind is UnionType:
        (item,) = map(_reader, inner)
        return lambda value: None if value is None else item(value)
    if kind is list:
        item = _reader(inner[0])
        return lambda value: [item(each) for each in _exactly(list, value)]
    if kind is dict:
        item = _reader(inner[1])
        return lambda value: {name: item(each) for name, each in _exactly(dict, value).items()}
    return _value_reader(kind)


def _value_reader(type_: Any) -> Callable[[Any], Any]:
    if type_ is Any:
        return lambda value: value
    return type_ if issubclass(type_, Enum) else lambda value: _exactly(type_, value)


def _dataclass_reader(type_: Any) -> Callable[[Any], Any]:
    types: dict[str, Any] = {each.name: each.type for each in fields(type_)}
    readers = {name: _reader(declared) for name, declared in types.items()}

    def read(value: Any) -> Any:
        if _exactly(dict, value).keys() != readers.keys():
            raise ValueError(f"not the fields of {type_.__name__}")
        return type_(**{name: reader(value[name]) for name, reader in readers.items()})

    return read


def _exactly(type_: type, value: Any) -> Any:
    if type(value) is not type_:
        raise TypeError(f"{type(value).__name__} in the place of {type_.__name__}")
    return value
