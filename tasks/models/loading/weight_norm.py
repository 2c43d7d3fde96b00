"""Weight norm and other parametrizations: legacy checkpoint names, and replacement of the weights by their values."""

from collections.abc import Collection, Mapping

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

_LEGACY_NAMES = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


def fix_parametrized_weights(module: nn.Module) -> None:
    """Replace every parametrized weight inside ``module`` by its current value, in place.

    The outputs do not change. Exported files then contain the value instead of the computation, and TorchScript can
    compile the module. The state-dict names of the parametrizations are removed.
    """
    for layer in list(module.modules()):
        if is_parametrized(layer):
            for name in list(layer.parametrizations):  # type: ignore[arg-type]
                remove_parametrizations(layer, name, leave_parametrized=True)


def rename_legacy_weight_norm(tensors: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """Rename ``weight_g`` and ``weight_v``, saved by PyTorch before parametrizations, to the names in ``expected``."""
    renamed = {
        name.replace(new, old): name
        for name in expected
        for new, old in _LEGACY_NAMES.items()
        if name.endswith(new) and name.replace(new, old) not in expected
    }
    return {renamed.get(name, name): tensor for name, tensor in tensors.items()}
