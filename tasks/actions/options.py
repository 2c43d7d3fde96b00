"""Options that a module takes and ignores are refused: the artifact's metadata would name what it does not do."""

import inspect

import torch
from torch import nn

from tasks.actions.inputs.generated import Padding, make_case, static_sizes
from tasks.errors import UserError
from tasks.runtimes.base import as_tuple
from tasks.settings.component import ComponentSpec


def require_effective_options(module: nn.Module, component: ComponentSpec) -> None:
    """Run the module with and without each flag that is set against its default: the outputs must differ.

    Raises:
        UserError: they are the same at the usual and at the largest size.
    """
    parameters = inspect.signature(module.forward).parameters
    for name, value in component.options.items():
        default = parameters[name].default if name in parameters else None
        if isinstance(default, bool) and value is not default and not _differs(module, component, name):
            raise UserError(
                "has no effect on this model",
                where=component.option_setting(name, value),
                value=f"the same outputs as with {name}={default}",
                remedy="Leave it out",
            )


def _differs(module: nn.Module, component: ComponentSpec, option: str) -> bool:
    """Whether a flag changes an output at the usual size of the axes or, beyond every chunk, at the largest."""
    for bound in ("opt", "max"):
        sizes = component.sizes_at(bound) | static_sizes(module)
        case = make_case(component, sizes, padding=Padding.none, random=torch.Generator().manual_seed(0))
        without = {name: value for name, value in component.options.items() if name != option}
        with torch.no_grad():
            found, plain = (as_tuple(module(**case.inputs, **given)) for given in (component.options, without))
        if any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(found, plain, strict=True)):
            return True
    return False
