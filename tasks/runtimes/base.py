"""The contract of all engines: an artifact that is called with tensors, and the name of what really runs it.

A step names its runtime as ``module:function``, called as ``open_artifact(path, device=, threads=) -> Runtime``, and
what lists an artifact's weights as another, called as ``contents(path) -> Contents``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tasks.settings.number_formats import BY_TORCH, NumberFormat

Dtypes = Mapping[str, torch.dtype]
Shapes = Mapping[str, tuple[int | None, ...]]
METADATA_RECORD = "voxkiln.json"  # record of a TorchScript file: what it is, and the options it is called with


@dataclass(frozen=True)
class StoredWeight:
    """A tensor of floats that an artifact contains.

    Attributes:
        name: in the artifact.
        read: returns the values; all weights of a large file at once may not fit into memory beside the model.
        scale: what the exporter multiplied the original by.
    """

    name: str
    read: Callable[[], Tensor]
    scale: float = 1.0


@dataclass(frozen=True)
class Contents:
    """What an artifact contains, read without running it.

    Attributes:
        weights: of more than one element.
        formats: names of the formats of its floats, those of intermediate results included where the file has them.
    """

    weights: list[StoredWeight]
    formats: set[str]


class Runtime(Protocol):
    """A loaded artifact.

    Attributes:
        provider: what really ran it, "CUDAExecutionProvider" for example; never what was merely asked for.
        dtypes: of the inputs that the artifact takes in one dtype only; empty if nothing is known.
        shapes: sizes of the inputs that are fixed in the artifact, None where any fits; empty if nothing is known.
        outputs: names of the outputs in the artifact's order, with their dtypes; empty if they have no names.
    """

    @property
    def provider(self) -> str: ...

    @property
    def dtypes(self) -> Dtypes: ...

    @property
    def shapes(self) -> Shapes: ...

    @property
    def outputs(self) -> Dtypes: ...

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Run once on tensors by name; outputs in the artifact's order, on the CPU or the artifact's device."""
        ...


def torch_dtype(format_: NumberFormat) -> torch.dtype:
    """PyTorch's dtype for a number format."""
    dtype: torch.dtype = getattr(torch, format_.torch)
    return dtype


def name_of(dtype: torch.dtype) -> str:
    """The name of the format of a dtype; PyTorch's own for one that is not in the table."""
    name = str(dtype).removeprefix("torch.")
    return BY_TORCH[name].name if name in BY_TORCH else name


def as_tuple(outputs: Tensor | tuple[Tensor, ...] | list[Tensor]) -> tuple[Tensor, ...]:
    """One output or several, as a tuple."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def to_device(arguments: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Keyword arguments with their tensors on a device."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in arguments.items()}
