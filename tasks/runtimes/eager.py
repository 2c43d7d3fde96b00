"""Runs the original module in eager PyTorch: the fp32 reference that every artifact is compared with."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tasks.runtimes.base import Dtypes, Shapes, as_tuple, to_device


class PyTorchModule:
    """A module in eval mode with its options fixed.

    Args:
        module: the original, any dtype; it is moved to `device`.
        options: keyword arguments of its forward that are constants of the artifact.

    Attributes:
        causal: whether its forward on a whole sequence returns what its methods return chunk by chunk; true unless
            the module has a `forward_is_causal` that returns False.
    """

    def __init__(self, module: nn.Module, *, options: Mapping[str, Any], device: str) -> None:
        torch.backends.cudnn.allow_tf32 = False  # convolutions in fp32 would be rounded to 10 bits
        self._module, self._options, self._device = module.eval().to(device), dict(options), device
        self.provider = f"PyTorch {torch.__version__} on {device}"
        self.dtypes: Dtypes = {}
        self.shapes: Shapes = {}
        self.outputs: Dtypes = {}
        self.causal = getattr(module, "forward_is_causal", lambda: True)()

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return self.call("forward", {**inputs, **self._options})

    @torch.no_grad()
    def call(self, method: str, arguments: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Run a method beside forward, with keyword arguments."""
        run = self._module if method == "forward" else getattr(self._module, method)
        return as_tuple(run(**to_device(arguments, self._device)))
