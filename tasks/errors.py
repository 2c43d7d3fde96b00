"""The errors a user can fix: each states what is wrong, where, which value, and what to do about it.

Anything else is a bug and keeps its traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

PROBLEMS_SHOWN = 50


class UserError(Exception):
    """Something outside the code is wrong: a file, a setting, the machine.

    Args:
        what: the problem in one clause, without a final full stop.
        where: the file, tensor, setting or step it was found in.
        value: the offending value, printed with ``repr`` unless it is a string.
        remedy: what the reader can do about it, in the imperative.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | Path = "", value: object = None, remedy: str = "") -> None:
        self.what, self.where, self.value, self.remedy = what, str(where), value, remedy
        super().__init__(self._text())

    def _text(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        if self.value is not None:
            head += f" (got {self.value if isinstance(self.value, str) else repr(self.value)})"
        return f"{head}. {self.remedy}." if self.remedy else f"{head}."


class ConfigError(UserError):
    """The settings cannot be used; raised before any step starts, exit code 3."""

    exit_code = 3

    def __init__(self, problems: list[str]) -> None:
        self.problems = [one_line(problem) for problem in problems]
        shown, more = self.problems[:PROBLEMS_SHOWN], len(problems) - PROBLEMS_SHOWN
        lines = [f"{len(problems)} problems:", *shown, *([f"and {more} more"] if more > 0 else [])]
        Exception.__init__(self, shown[0] if len(problems) == 1 else "\n  ".join(lines))


def one_line(text: str, *, longest: int = 1000) -> str:
    """Text for one line of a message: what cannot be printed as escapes, and without the middle where it is long."""
    half = longest // 2
    if len(text) > longest:
        text = f"{text[:half]} ... ({len(text) - 2 * half:,} characters) ... {text[-half:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def reason(error: BaseException) -> str:
    """The first line of an exception's message; the name of its class if it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one; empty if none is near."""
    close = get_close_matches(value, list(known), n=1, cutoff=0.4)
    return f"; did you mean {close[0]}?" if close else ""


def require_library(name: str, *, extra: str, why: str) -> Any:
    """Import an optional library.

    Args:
        name: of the module, ``transformers``.
        extra: of this project's distribution that installs it, ``llm``.
        why: what needs it, as a clause: ``the text tokenizers of CosyVoice 2 and 3 are read by it``.

    Raises:
        UserError: it is not installed; names the command that installs it.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != name.partition(".")[0]:
            raise  # the library is there and lacks something itself
        remedy = f"Install it: pip install 'voxkiln[{extra}]'"
        raise UserError(f"is not installed: {why}", where=name, remedy=remedy) from error
