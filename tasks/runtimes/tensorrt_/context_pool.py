"""A fixed-size pool of objects that only one caller may use at a time.

Written for TensorRT's execution contexts, but independent of them.
"""

import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from tasks.errors import UserError

T = TypeVar("T")


class ContextPool(Generic[T]):
    """Lends each member to one caller at a time; when none is free, callers wait."""

    def __init__(self, members: Sequence[T]) -> None:
        self.size = len(members)
        self._free: queue.LifoQueue[T] = queue.LifoQueue()  # the member used last is warm
        for member in reversed(members):
            self._free.put(member)

    @property
    def free(self) -> int:
        """How many members are free at the moment."""
        return self._free.qsize()

    @contextmanager
    def acquire(self, *, timeout: float | None = None) -> Iterator[T]:
        """Borrow a member for the `with` block; it is returned however the block ends.

        Args:
            timeout: seconds to wait for a free member; None: no limit.

        Raises:
            UserError: if no member became free in time.
        """
        member = self._take(timeout)
        try:
            yield member
        finally:
            self._free.put(member)

    def _take(self, timeout: float | None) -> T:
        try:
            return self._free.get(timeout=timeout)
        except queue.Empty:
            raise UserError(
                "every execution context is in use",
                value=f"{self.size} contexts, waited {timeout} s",
                remedy="Raise tensorrt.concurrency or send fewer requests at once",
            ) from None
