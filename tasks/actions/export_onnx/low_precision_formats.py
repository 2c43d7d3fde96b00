"""The number formats of 16 bits that an ONNX file can compute in, and what each can hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch


@dataclass(frozen=True)
class Narrow:
    """A format narrower than fp32.

    Attributes:
        name: the precision that it is asked for by.
        type: of tensors in a graph.
        dtype: of the same tensors outside one.
        largest: its largest finite number.
        masks_from: constants this large are attention masks (-1e10, -3e38, -inf), not numbers to compute with.
        short_range: whether ordinary models have numbers that it does not have.
        coarse: whether a time in [0, 1] loses too much: at 0.3 numbers of bf16 are 0.002 apart, two radians in a time
            embedding of scale 1000, and an estimator's velocity would be only 20 to 27 dB true.
    """

    name: str
    type: ir.DataType
    dtype: torch.dtype
    largest: float
    masks_from: float
    short_range: bool
    coarse: bool

    def wide_inputs(self, component: Mapping[str, Any]) -> frozenset[str]:
        """The inputs of a component that stay in fp32 all the same."""
        times = (name for name, declared in component["inputs"].items() if declared["values"] == "time")
        return frozenset(times if self.coarse else ())

    @property
    def masked(self) -> float:
        """What masks become: exp() of it is 0, and a score can be added to it."""
        return -self.largest / 2

    @property
    def schema(self) -> str:
        """As operators' schemas call it."""
        return f"tensor({str(self.dtype).removeprefix('torch.')})"

    @property
    def numpy(self) -> "np.dtype[np.generic]":
        """As numpy has it; bfloat16 comes from ml_dtypes."""
        return self.type.numpy()


def _narrow(
    name: str, type_: ir.DataType, dtype: torch.dtype, *, masks_from: float, short_range: bool, coarse: bool
) -> Narrow:
    return Narrow(name, type_, dtype, torch.finfo(dtype).max, masks_from, short_range, coarse)


FP16 = _narrow("fp16", ir.DataType.FLOAT16, torch.float16, masks_from=1e9, short_range=True, coarse=False)
# bf16 has fp32's exponent: only what lies above its largest number, fp32's own largest among it, would become infinite.
BF16 = _narrow(
    "bf16",
    ir.DataType.BFLOAT16,
    torch.bfloat16,
    masks_from=torch.finfo(torch.bfloat16).max,
    short_range=False,
    coarse=True,
)
NARROW = {narrow.name: narrow for narrow in (FP16, BF16)}
