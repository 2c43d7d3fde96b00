"""Progress of long work: a tqdm bar on a terminal, a plain line now and then in a log."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TextIO, TypeVar

T = TypeVar("T")

LOG_EVERY_SECONDS = 10.0

_stream: TextIO | None = None


def use(stream: TextIO) -> None:
    """Show progress on `stream` from now on instead of on standard error."""
    global _stream  # noqa: PLW0603  one terminal per process
    _stream = stream


def stream() -> TextIO:
    """Where progress is shown."""
    return _stream or sys.stderr


def say(line: str) -> None:
    """One line about what is going on."""
    print(f"        {line}", file=stream(), flush=True)


def progress(items: Iterable[T], *, label: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` unchanged while telling how far the loop is."""
    if stream().isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=f"        {label}", total=total, leave=False, dynamic_ncols=True, file=stream())
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
            say(f"{label}: {done}{f'/{total}' if total else ''}")
