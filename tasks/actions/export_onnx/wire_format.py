"""Protobuf's wire format, as far as files need it whose weights must not be in memory more than once.

A message is a row of fields. A field is its tag (its number and how it is written), for text, bytes and messages their
length, and its content; tags and lengths are numbers in base 128, lowest digit first.
https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Iterator
from typing import Any

import onnx

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5  # how a field is written
FIXED_BYTES = {FIXED64: 8, FIXED32: 4}


def numbers(message: Any, *names: str) -> set[int]:
    """Of fields of a generated class."""
    return {message.DESCRIPTOR.fields_by_name[name].number for name in names}


(GRAPH,) = numbers(onnx.ModelProto, "graph")
(INITIALIZER,) = numbers(onnx.GraphProto, "initializer")
(RAW_DATA,) = numbers(onnx.TensorProto, "raw_data")


def head(number: int, length: int) -> bytes:
    """What stands before the content of a field that has a length."""
    return _varint(number << 3 | DELIMITED) + _varint(length)


def fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """The fields of a message.

    Yields:
        Its number, its content, and the whole field with its tag.

    Raises:
        ValueError: this is no message, or it is cut off.
    """
    start = 0
    while start < len(message):
        tag, at = _read_varint(message, start)
        kind = tag & 7
        if kind == VARINT:
            end = _read_varint(message, at)[1]
        elif kind == DELIMITED:
            length, at = _read_varint(message, at)
            end = at + length
        elif kind in FIXED_BYTES:
            end = at + FIXED_BYTES[kind]
        else:
            raise ValueError(f"no field of protobuf at byte {start}")
        if end > len(message):
            raise ValueError(f"cut off in the field at byte {start}")
        yield tag >> 3, message[at:end], message[start:end]
        start = end


def _varint(number: int) -> bytes:
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number at a position, and the position behind it."""
    number = shift = 0
    for digit in message[at : at + 10]:
        number |= (digit & 127) << shift
        at, shift = at + 1, shift + 7
        if digit < 128:
            return number, at
    raise ValueError(f"cut off at byte {at}")
