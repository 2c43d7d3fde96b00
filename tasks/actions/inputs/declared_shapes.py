"""Tries a module on inputs of the declared shapes before it is exported: an exporter would blame the module instead."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tasks.errors import UserError, reason
from tasks.settings.component import ComponentSpec


def require_declared_shapes(module: nn.Module, component: ComponentSpec, sample: Mapping[str, Tensor]) -> None:
    """Run `module` once on `sample`, inputs of the declared shapes.

    Raises:
        UserError: it does not take them; with the shapes and the module's own message.
    """
    try:
        with torch.no_grad():
            module(**sample, **component.options)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in sample.items())
        raise UserError(
            "the module does not take inputs of the declared shapes",
            where=component.name,
            value=f"{shapes}; {type(error).__name__}: {reason(error)}",
            remedy="Correct the shapes under model.components; a size that the model's weights fix is declared by its "
            "name, such as mel, among named_sizes",
        ) from error
