"""Weights that are computed from others at every call (weight norm), replaced by their value once and for all."""

from torch import nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations


def fix_parametrized_weights(module: nn.Module) -> None:
    """Replace every parametrized weight inside ``module`` by its present value, in place.

    The outputs stay the same. Files exported afterwards hold the value and not the arithmetic, and TorchScript accepts
    the module; the state-dict names of the parametrization are gone.
    """
    for layer in list(module.modules()):
        if is_parametrized(layer):
            for name in list(layer.parametrizations):  # type: ignore[arg-type]
                remove_parametrizations(layer, name, leave_parametrized=True)
