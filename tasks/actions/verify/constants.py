"""What an exported file may contain in place of weights: values that the original computes from its weights alone.

Exporters compute them once: normalized weights, tables of positions, masks. They fold a batch normalization into the
convolution before it.
"""

from collections.abc import Collection, Iterator
from itertools import chain, permutations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

Names = frozenset[str]
NOTHING: Names = frozenset()
ULPS = 4  # by which two computations of a value in fp32 may differ, in units of the last place of its terms
MOST_AXES = 4  # of a value that may be stored in another order of axes


class Constant(NamedTuple):
    """A value, the names of the weights it is computed from, and the sizes of the numbers that its elements sum up."""

    value: Tensor
    names: Names
    terms: Tensor

    def is_in(self, stored: Tensor) -> bool:
        """Whether these are the stored values, in some order of axes, up to the last places of their format."""
        if self.value.dim() > MOST_AXES:
            return False
        format_, fp32 = torch.finfo(stored.dtype), torch.finfo(torch.float32)
        found = stored.double().flatten()
        for axes in permutations(range(self.value.dim())):
            value, terms = (each.permute(axes).flatten() for each in (self.value, self.terms))
            rounded = value.to(stored.dtype).double()
            last_place = format_.eps * rounded.abs() + format_.smallest_normal * format_.eps
            allowed = last_place + ULPS * fp32.eps * terms.abs().double()
            if bool(((found - rounded).abs() <= allowed).all()):
                return True
        return False


class Constants(TorchDispatchMode):
    """Follows which weights a call reads, and what it computes from weights alone.

    A method that an artifact does not have leaves its weights unread.

    Args:
        module: its parameters and buffers are the weights.
        sizes: numbers of elements of the values that are of interest; only these are kept.

    Attributes:
        read: the names of the weights that were read.
    """

    def __init__(self, module: nn.Module, sizes: Collection[int]) -> None:
        super().__init__()
        self.read: set[str] = set()
        self._sizes = sizes
        self._names: dict[int, Names] = {}
        for name, weight in chain(
            module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
        ):
            if weight.numel():
                self._names[weight.data_ptr()] = self._names.get(weight.data_ptr(), NOTHING) | {name}
        self._sources = WeakIdKeyDictionary()
        self._values: list[tuple[Tensor, Names]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        sources = [self._sources_of(tensor) for tensor in given]
        result = func(*args, **(kwargs or {}))
        for tensor in (leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)):
            if any(names is None for names in sources):
                self._sources.pop(tensor, None)  # written in place
            else:
                self._note(tensor, NOTHING.union(*(names or NOTHING for names in sources)))
        return result

    @property
    def values(self) -> Iterator[Constant]:
        """What was computed, on the CPU."""
        for tensor, names in self._values:
            value = tensor.detach().cpu().float()
            yield Constant(value, names, value.abs() + value.abs().max())

    def _sources_of(self, tensor: Tensor) -> Names | None:
        """The weights that a tensor is computed from; None if it depends on inputs."""
        names = self._names.get(tensor.data_ptr(), NOTHING)
        self.read |= names
        known: Names | None = self._sources.get(tensor)
        return names if names and known is None else known

    def _note(self, tensor: Tensor, names: Names) -> None:
        self._sources[tensor] = names
        if tensor.is_floating_point() and tensor.numel() in self._sizes and tensor.data_ptr() not in self._names:
            self._values.append((tensor, names))


def folded(module: nn.Module, weights: dict[str, Tensor]) -> Iterator[Constant]:
    """What a convolution's weights and biases become with each batch normalization of the module folded into them."""
    for norm_name, norm in module.named_modules():
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_var is None:
            continue
        state = {f"{norm_name}.{name}": tensor.detach().cpu().double() for name, tensor in norm.state_dict().items()}
        names = frozenset(state)
        mean, variance = (state[f"{norm_name}.running_{name}"] for name in ("mean", "var"))
        factor = state.get(f"{norm_name}.weight", torch.ones_like(mean)) / torch.sqrt(variance + norm.eps)
        bias = state.get(f"{norm_name}.bias", torch.zeros_like(mean))
        yield Constant(bias - mean * factor, names, bias.abs() + (mean * factor).abs())
        for name, weight in weights.items():
            for axis in (axis for axis in range(min(weight.dim(), 2)) if weight.size(axis) == len(factor)):
                along = factor.reshape([-1 if each == axis else 1 for each in range(weight.dim())])
                value = weight.double() * along
                if weight.dim() > 1:
                    yield Constant(value, names | {name}, value)
                else:
                    shifted = value + bias - mean * factor
                    yield Constant(shifted, names | {name}, value.abs() + bias.abs() + (mean * factor).abs())
