"""The number formats of 16 bits that an ONNX file can compute in, and what each can hold."""

from dataclasses import dataclass

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
    """

    name: str
    type: ir.DataType
    dtype: torch.dtype
    largest: float
    masks_from: float
    short_range: bool

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


def _narrow(name: str, type_: ir.DataType, dtype: torch.dtype, *, masks_from: float, short_range: bool) -> Narrow:
    return Narrow(name, type_, dtype, torch.finfo(dtype).max, masks_from, short_range)


FP16 = _narrow("fp16", ir.DataType.FLOAT16, torch.float16, masks_from=1e9, short_range=True)
# bf16 has fp32's exponent: only what lies above its largest number, fp32's own largest among it, would become infinite.
BF16 = _narrow(
    "bf16", ir.DataType.BFLOAT16, torch.bfloat16, masks_from=torch.finfo(torch.bfloat16).max, short_range=False
)
NARROW = {narrow.name: narrow for narrow in (FP16, BF16)}
