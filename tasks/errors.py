"""The errors a user can fix: each states what is wrong, where, which value, and what to do about it.

Anything else is a bug and keeps its traceback.
"""

import shlex
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from reprlib import Repr
from typing import Any

# What a message quotes comes from the user's files, where a name can be a million characters long.
MAX_QUOTED = 2000  # characters of each part of a message: ten names with their shapes fit
MAX_NAME = 200
MAX_PROBLEMS = 50

_REPR = Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = MAX_NAME
_REPR.maxlist = _REPR.maxtuple = _REPR.maxset = _REPR.maxfrozenset = _REPR.maxdict = 20


class UserError(Exception):
    """Something outside the code is wrong: a file, a setting, the machine.

    Each part of the message is shortened to MAX_QUOTED characters; the attributes keep the whole.

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
        what, where, remedy = shortened(self.what), shortened(self.where), shortened(self.remedy)
        head = f"{where}: {what}" if where else what
        if self.value is not None:
            head += f" (got {shortened(self.value if isinstance(self.value, str) else _repr(self.value))})"
        return f"{head}. {remedy}." if remedy else f"{head}."


class ConfigError(UserError):
    """The settings cannot be used; raised before any step starts, exit code 3."""

    exit_code = 3

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        lines = [shortened(problem) for problem in problems[:MAX_PROBLEMS]]
        if len(problems) > MAX_PROBLEMS:
            lines.append(f"and {len(problems) - MAX_PROBLEMS} more")
        text = lines[0] if len(problems) == 1 else "\n  ".join([f"{len(problems)} problems:", *lines])
        Exception.__init__(self, text)


def shortened(text: str, most: int = MAX_QUOTED) -> str:
    """`text` fit for a terminal: the middle is left out beyond `most` characters; control characters are escaped."""
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]}[{len(text) - 2 * half} characters left out]{text[-half:]}"
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def shortened_name(name: object) -> str:
    """A name among others in a list, so that one long one leaves room for the rest."""
    return shortened(str(name), MAX_NAME)


def listed(items: Iterable[object], most: int = 10, *, separator: str = ", ") -> str:
    """The first `most` of names or clauses, shortened to fit into one part of a message, and how many more."""
    texts = [str(item) for item in items]
    shown = separator.join(shortened(text, MAX_QUOTED // most) for text in texts[:most])
    return shown + (f" and {len(texts) - most} more" if len(texts) > most else "")


def reason(error: BaseException) -> str:
    """The first line of an exception's message, shortened; the name of its class if it has none."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return shortened(first, MAX_QUOTED // 4)


def _repr(value: object) -> str:
    try:
        return _REPR.repr(value)
    except ValueError:  # Python does not print integers of more than 4300 digits
        return type(value).__name__


def python_command(program: str) -> str:
    """The shell command that executes a line of Python, with as little quoting as can be."""
    plain = not set(program) & set('"$`\\!')
    return f'python -c "{program}"' if plain else f"python -c {shlex.quote(program)}"


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
