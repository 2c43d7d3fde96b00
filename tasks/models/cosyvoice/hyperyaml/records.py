"""What a model YAML contains beside plain data: records of its tags, and the error that names a line of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.errors import UserError

QUOTED_AT_MOST = 600  # characters of a file that a message repeats


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


@dataclass(frozen=True)
class Unusable:
    """A tag that cannot be read here. It matters only where a component needs it: training sections have others."""

    what: str
    line: int
    value: str
    remedy: str


def problem(path: Path, what: str, line: int, value: object, remedy: str) -> UserError:
    """An error that names a line of a file and quotes no more of the file than a reader needs."""
    shown = None if value is None else quoted(value)
    return UserError(what, where=f"{path}:{line}", value=shown, remedy=remedy)


def quoted(value: object) -> str:
    """A value of a file for a message: escaped where it cannot be printed, and cut."""
    text = value if isinstance(value, str) else repr(value)
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= QUOTED_AT_MOST else f"{text[:QUOTED_AT_MOST]}..."
