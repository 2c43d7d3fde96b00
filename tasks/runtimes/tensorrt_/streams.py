"""The few CUDA calls that running a plan needs.

The callers accept any object with this interface, so the order of waits and launches is tested without a GPU.
"""

from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from tasks.errors import UserError


class Streams(Protocol):
    """A device's streams. A stream has `wait_stream(other)` and the number `cuda_stream`, as PyTorch's have."""

    device: torch.device

    def on_device(self) -> AbstractContextManager[Any]:
        """Make it the calling thread's current device, which is the one that TensorRT uses."""
        ...

    def new(self) -> Any: ...

    def current(self) -> Any:
        """The stream on which the caller produces and consumes tensors."""
        ...

    def record(self, tensor: torch.Tensor, stream: Any) -> None:
        """Keep the tensor's memory from being reused before `stream` has finished with it."""
        ...

    def synchronize(self) -> None:
        """Block the host; for measurements only, never in a call."""
        ...

    def name(self) -> str: ...


class CudaStreams:
    """PyTorch's streams on one GPU.

    Raises:
        UserError: if PyTorch sees no such GPU.
    """

    def __init__(self, device: str) -> None:
        if not torch.cuda.is_available():
            raise UserError(
                "a TensorRT plan needs an NVIDIA GPU and a PyTorch with CUDA",
                value=f"torch {torch.__version__}",
                remedy="Run it on the machine the plan was built for",
            )
        named = torch.device(device)
        self.device = named if ":" in str(named) else torch.device("cuda", torch.cuda.current_device())
        if (self.device.index or 0) >= (count := torch.cuda.device_count()):
            raise UserError("no such GPU", where=device, value=f"{count} GPUs", remedy="Name one that PyTorch sees")

    def on_device(self) -> AbstractContextManager[Any]:
        return torch.cuda.device(self.device)

    def new(self) -> Any:
        return torch.cuda.Stream(self.device)

    def current(self) -> Any:
        return torch.cuda.current_stream(self.device)

    def record(self, tensor: torch.Tensor, stream: Any) -> None:
        tensor.record_stream(stream)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def name(self) -> str:
        return torch.cuda.get_device_name(self.device)
