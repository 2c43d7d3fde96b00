"""Progress of long work: a tqdm bar on a terminal, a plain line now and then in a log."""

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TextIO, TypeVar

T = TypeVar("T")

LOG_EVERY_SECONDS = 10.0

_output: TextIO | None = None


def use(output: TextIO) -> None:
    """Show progress on `output` from now on instead of on standard error."""
    global _output  # noqa: PLW0603  one terminal per process
    _output = output


def prepare_streams() -> None:
    """Let the standard streams of this process take anything, also where they are closed.

    The number of a closed one would be given to the next file that is opened, doit's database for example, and what
    libraries print would be written into that.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # which takes the lowest number that is free
        if number > 0 and getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", closefd=False))
    print_anything(sys.stdout, sys.stderr)


def print_anything(*streams: TextIO) -> None:
    """Let streams print as escapes what their encoding does not know, instead of failing."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):  # what tests put in their place takes everything
            stream.reconfigure(errors="backslashreplace")


class Unfailing:
    """A stream that ends no work: its reader may go away and its disk be full; what is written then is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, act: Callable[..., object], *arguments: str) -> None:
        try:
            act(*arguments)
        except OSError:
            give_up(self._stream)


def give_up(stream: TextIO) -> None:
    """Let a stream that cannot be written lead nowhere, with what it still holds."""
    with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), stream.fileno())


def output() -> Unfailing:
    """Where progress is shown."""
    return Unfailing(_output or sys.stderr)


def report(line: str) -> None:
    """One line about what is going on."""
    print(f"        {line}", file=output(), flush=True)


def progress(items: Iterable[T], *, label: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` unchanged and show how far the loop is."""
    if output().isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=f"        {label}", total=total, leave=False, dynamic_ncols=True, file=output())
    else:
        yield from _logged(items, label=label, total=total)


def _logged(items: Iterable[T], *, label: str, total: int | None) -> Iterator[T]:
    if total is None and isinstance(items, Sized):
        total = len(items)
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last >= LOG_EVERY_SECONDS:
            last = time.monotonic()
            report(f"{label}: {done}{f'/{total}' if total else ''}")
