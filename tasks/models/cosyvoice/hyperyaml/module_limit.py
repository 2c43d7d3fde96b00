"""Stops the construction of a module that becomes far larger than its checkpoint: billions of blocks take hours."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

MODULES_PER_TENSOR = 10  # a generous bound: containers, activations and dropout have no tensors of their own
AT_LEAST = 200


class TooManyModulesError(ValueError):
    """More modules than the weights at hand can belong to."""


@contextmanager
def module_limit(tensors: int) -> Iterator[None]:
    """Raise TooManyModulesError inside as soon as more modules are registered than `tensors` tensors can belong to."""
    left = AT_LEAST + MODULES_PER_TENSOR * tensors

    def count(_parent: nn.Module, _name: str, _child: nn.Module | None) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise TooManyModulesError(f"they describe more layers than a model of {tensors} tensors can have")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
