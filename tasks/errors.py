"""The errors a user can mend: each says what is wrong, where, which value, and what to do about it.

Anything else is a bug and keeps its traceback.
"""

from pathlib import Path


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


def reason(error: BaseException) -> str:
    """The first line of an error's message, or its class name where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class ConfigError(UserError):
    """The settings cannot be used; raised before any step starts, exit code 3."""

    exit_code = 3

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        text = problems[0] if len(problems) == 1 else "\n  ".join([f"{len(problems)} problems:", *problems])
        Exception.__init__(self, text)
