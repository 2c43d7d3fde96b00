"""Streams that run immediately and record the order of waits and launches; blocking the host is an error."""

import threading
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class FakeStream:
    """Records the streams it waited for."""

    cuda_stream: int
    waited_for: list[int] = field(default_factory=list)

    def wait_stream(self, other: "FakeStream") -> None:
        self.waited_for.append(other.cuda_stream)


class FakeStreams:
    """A device whose tensors are in the CPU's memory; each thread has a current stream of its own."""

    device = torch.device("cpu")

    def __init__(self, *, may_synchronize: bool = False) -> None:
        self.made: list[FakeStream] = []
        self.recorded: list[tuple[int, int]] = []  # (tensor's address, stream)
        self.may_synchronize = may_synchronize
        self._local = threading.local()

    def on_device(self) -> Any:
        return nullcontext()

    def new(self) -> FakeStream:
        self.made.append(FakeStream(len(self.made) + 1))
        return self.made[-1]

    def current(self) -> FakeStream:
        if not hasattr(self._local, "stream"):
            self._local.stream = FakeStream(1000 + threading.get_ident())
        return self._local.stream

    def record(self, tensor: torch.Tensor, stream: FakeStream) -> None:
        self.recorded.append((tensor.data_ptr(), stream.cuda_stream))

    def synchronize(self) -> None:
        if not self.may_synchronize:
            raise AssertionError("a call waited on the host")

    def name(self) -> str:
        return "Fake GPU"
