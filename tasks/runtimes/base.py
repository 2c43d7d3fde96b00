"""The contract of all engines: an artifact that is called with tensors, and the name of what really runs it.

A step names its runtime as ``module:function``, called as ``open_artifact(path, device=, threads=) -> Runtime``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tasks.settings.number_formats import NumberFormat

Dtypes = Mapping[str, torch.dtype]
Shapes = Mapping[str, tuple[int | None, ...]]
METADATA_RECORD = "voxkiln.json"  # record of a TorchScript file: what it is, and the options it is called with


@dataclass(frozen=True)
class StoredWeight:
    """A tensor of floats that an artifact contains.

    Attributes:
        name: in the artifact.
        scale: what the exporter multiplied the original by.
    """

    name: str
    values: Tensor
    scale: float = 1.0


class Runtime(Protocol):
    """A loaded artifact.

    Attributes:
        provider: what really ran it, "CUDAExecutionProvider" for example; never what was merely asked for.
        dtypes: of the inputs that the artifact takes in one dtype only; empty if nothing is known.
        shapes: sizes of the inputs that are fixed in the artifact, None where any fits; empty if nothing is known.
    """

    @property
    def provider(self) -> str: ...

    @property
    def dtypes(self) -> Dtypes: ...

    @property
    def shapes(self) -> Shapes: ...

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Run once on tensors by name; outputs in the artifact's order, on the CPU or the artifact's device."""
        ...


def torch_dtype(format_: NumberFormat) -> torch.dtype:
    """PyTorch's dtype for a number format."""
    dtype: torch.dtype = getattr(torch, format_.torch)
    return dtype


def as_tuple(outputs: Tensor | tuple[Tensor, ...] | list[Tensor]) -> tuple[Tensor, ...]:
    """One output or several, as a tuple."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def to_device(arguments: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Keyword arguments with their tensors on a device."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in arguments.items()}
