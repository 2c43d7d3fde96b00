"""Commands that only print: what they print is all that they do, so that they fail where it cannot be written."""

import contextlib
import functools
import io
import sys
from collections.abc import Callable
from typing import Any

from doit.exceptions import BaseFail, TaskFailed

from tasks.progress import give_up


def printing(action: Callable[..., BaseFail | None]) -> Callable[..., BaseFail | None]:
    """An action that prints everything at its end. A reader who has gone away (`doit why | head`) has seen enough."""

    @functools.wraps(action)
    def act(*arguments: Any, **options: Any) -> BaseFail | None:
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            failure = action(*arguments, **options)
        try:
            sys.stdout.write(text.getvalue())
            sys.stdout.flush()
        except OSError as error:
            give_up(sys.__stdout__ or sys.stdout)
            if not isinstance(error, BrokenPipeError):
                print(f"ERROR: cannot write what is to be printed: {error.strerror}.", file=sys.stderr)
                return failure or TaskFailed("the output cannot be written")
        return failure

    return act
