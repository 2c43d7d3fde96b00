"""Weight norm and other parametrizations: both spellings of them, weights without them, and replacement by values."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

# Magnitude and direction, before PyTorch had parametrizations and since.
SPELLINGS = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))

_IN_NAMES = re.compile(f"({'|'.join(re.escape(name) for names in SPELLINGS for name in names)})$")


def without_weight_norm(name: str) -> str:
    """The state-dict name of a tensor's layer without weight norm."""
    return _IN_NAMES.sub("weight", name)


def fix_parametrized_weights(module: nn.Module) -> dict[str, Tensor]:
    """Replace every parametrized weight inside ``module`` by its current value, in place.

    The outputs do not change. Exported files then contain the value instead of the computation, and TorchScript can
    compile the module. The state-dict names of the parametrizations are removed.

    Returns:
        These weights by name. A direction of length zero makes them NaN, though all that is in the file is finite.
    """
    fixed = {}
    for path, layer in list(module.named_modules()):
        if is_parametrized(layer):
            for name in list(layer.parametrizations):
                remove_parametrizations(layer, name, leave_parametrized=True)
                fixed[f"{path}.{name}" if path else name] = getattr(layer, name)
    return fixed


def match_weight_norm(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the form that each layer of ``module`` has: with weight norm, in its spelling, or without.

    Where the file has a plain weight, the layer's weight norm is removed, in place: the value stays what it is.
    """
    result = dict(tensors)
    for name, layer in list(module.named_modules()):
        prefix = f"{name}." if name else ""
        if f"{prefix}weight" in result:
            if is_parametrized(layer, "weight"):
                remove_parametrizations(layer, "weight", leave_parametrized=True)
        else:
            _respell(prefix, module_has=[n for n, _ in layer.named_parameters()], tensors=result)
    return result


def _respell(prefix: str, *, module_has: list[str], tensors: dict[str, Tensor]) -> None:
    given = next((names for names in SPELLINGS if all(prefix + name in tensors for name in names)), None)
    wanted = next((names for names in SPELLINGS if all(name in module_has for name in names)), None)
    if given is None or given == wanted:
        return
    magnitude, direction = (tensors.pop(prefix + name) for name in given)
    if wanted:
        tensors |= {prefix + wanted[0]: magnitude, prefix + wanted[1]: direction}
    else:
        tensors[f"{prefix}weight"] = _weight(magnitude, direction)


def _weight(magnitude: Tensor, direction: Tensor) -> Tensor:
    """The magnitude has size 1 in the dimensions that each norm is taken over."""
    magnitude, direction = magnitude.float(), direction.float()
    over = [dim for dim in range(direction.dim()) if magnitude.dim() <= dim or magnitude.size(dim) == 1]
    return direction * (magnitude / torch.linalg.vector_norm(direction, dim=over, keepdim=True))
