"""A plan as a drop-in for the module it replaces: the same arguments in the same order, the same dtype of results."""

from collections.abc import Mapping
from typing import Any

import torch

from tasks.errors import UserError
from tasks.runtimes.tensorrt_.engine import TensorRTEngine


class PlanModule(torch.nn.Module):
    """Called like the original's `forward`.

    Args:
        engine: the loaded plan.
        constants: arguments of the original that were fixed on export, with their values (``streaming: False``).
    """

    def __init__(self, engine: TensorRTEngine, *, constants: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.engine = engine
        self.constants = dict(constants or {})
        self._order = [tensor.name for tensor in engine.interface.inputs]

    def forward(self, *positional: Any, **named: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The original's arguments -> its output, a tensor or a tuple, in the first float argument's dtype.

        Raises:
            UserError: if an argument is missing, unknown or given twice, or a fixed one is given another value.
        """
        inputs = self._by_name(positional, named)
        tensors = [value for value in inputs.values() if isinstance(value, torch.Tensor)]
        dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)
        results = tuple(
            result.to(dtype) if dtype and result.is_floating_point() else result for result in self.engine(inputs)
        )
        return results[0] if len(results) == 1 else results

    def _by_name(self, positional: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        parameters = [*self._order, *self.constants]
        if len(positional) > len(parameters):
            raise UserError("too many arguments for the plan", value=len(positional), remedy=f"Give {parameters}")
        if twice := [name for name in parameters[: len(positional)] if name in named]:
            raise UserError("given both by position and by name", where="TensorRT plan", value=twice)
        given = dict(zip(parameters, positional, strict=False)) | dict(named)
        for name, value in self.constants.items():
            if given.pop(name, value) != value:
                raise UserError(f"the plan was exported with {name}={value!r}", where=name, remedy="Export another")
        return given
