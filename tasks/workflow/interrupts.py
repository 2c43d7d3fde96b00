"""Ctrl-C is a decision, not a bug: no traceback for it. Imports nothing, so that it is in force before all else is."""

import sys
from typing import Any


def quiet_interrupts() -> None:
    """doit lets Ctrl-C through to the interpreter, which then ends with the usual exit code."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print("\ninterrupted; finished steps are kept, the same command continues", file=sys.stderr)
        else:
            previous(kind, error, trace)

    sys.excepthook = hook
