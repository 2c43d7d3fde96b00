"""Weights that are computed from others at every call (weight norm): their names of old, and their value for good."""

from collections.abc import Collection, Mapping

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

_OLD_NAMES = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


def fix_parametrized_weights(module: nn.Module) -> None:
    """Replace every parametrized weight inside ``module`` by its present value, in place.

    The outputs stay the same. Files exported afterwards hold the value and not the arithmetic, and TorchScript accepts
    the module; the state-dict names of the parametrization are gone.
    """
    for layer in list(module.modules()):
        if is_parametrized(layer):
            for name in list(layer.parametrizations):  # type: ignore[arg-type]
                remove_parametrizations(layer, name, leave_parametrized=True)


def under_present_names(tensors: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """Weight norm as PyTorch saved it before parametrizations (``weight_g``, ``weight_v``), where they are expected."""
    present = {
        name.replace(new, old): name
        for name in expected
        for new, old in _OLD_NAMES.items()
        if name.endswith(new) and name.replace(new, old) not in expected
    }
    return {present.get(name, name): tensor for name, tensor in tensors.items()}
