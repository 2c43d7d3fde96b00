"""What the conversion of an ONNX graph to a format of 16 bits needs to know of that format, beside its names."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from tasks.runtimes.base import torch_dtype
from tasks.settings.component import ComponentSpec, Kind
from tasks.settings.number_formats import BY_NAME, NumberFormat


@dataclass(frozen=True)
class LowPrecision:
    """A format with fewer bits than fp32.

    Attributes:
        format: its names.
        mask_threshold: constants of this magnitude or more are attention masks (-1e10, -3e38, -inf), not operands.
        short_range: whether values of ordinary models overflow in it.
        coarse: whether a time in [0, 1] loses too much: at 0.3 the numbers of bf16 are 0.002 apart, two radians in a
            time embedding of scale 1000, and the SNR of an estimator's output would drop to 20 to 27 dB.
    """

    format: NumberFormat
    mask_threshold: float
    short_range: bool
    coarse: bool

    @property
    def name(self) -> str:
        """The precision that it is requested by."""
        return self.format.name

    @property
    def type(self) -> ir.DataType:
        """Of tensors in a graph."""
        return ir.DataType(self.format.onnx)

    @property
    def numpy(self) -> "np.dtype[np.generic]":
        """Of arrays; bfloat16 comes from ml_dtypes."""
        return self.type.numpy()

    @property
    def schema(self) -> str:
        """In the schemas of operators, which share their type names with ONNX Runtime."""
        return self.format.onnxruntime

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return torch.finfo(torch_dtype(self.format)).max

    @property
    def mask_value(self) -> float:
        """What masks become: exp() of it is 0, and a score can be added to it."""
        return -self.largest / 2

    def fp32_inputs(self, component: ComponentSpec) -> frozenset[str]:
        """The inputs of a component that stay in fp32 all the same."""
        return frozenset(component.of_kind(Kind.time) if self.coarse else ())


FP16 = LowPrecision(BY_NAME["fp16"], mask_threshold=1e9, short_range=True, coarse=False)
# bf16 has fp32's exponent: only what lies above its largest number, fp32's own largest among it, would become infinite.
BF16 = LowPrecision(BY_NAME["bf16"], mask_threshold=torch.finfo(torch.bfloat16).max, short_range=False, coarse=True)
LOW_PRECISIONS = {low.name: low for low in (FP16, BF16)}
