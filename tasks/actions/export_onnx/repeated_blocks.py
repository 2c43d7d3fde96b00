"""Finds the blocks that a module repeats and traces each kind of them once.

Tracing takes most of an export, and most of a network is one block many times over: the same code with other weights.
Of blocks that are alike and are called alike, the first is traced between two markers, and each other one becomes a
single operator that names it; `placed_blocks` puts copies of the first in their places.
"""

import contextlib
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

DOMAIN = "voxkiln.blocks"
ENTER, LEAVE, AGAIN = "Enter", "Leave", "Again"
VALUES = (bool, int, float, str, bytes, type(None), type, torch.dtype, torch.device, torch.memory_format, Enum)
TENSORS = {"_parameters", "_buffers"}  # attributes of a module whose values may differ


@dataclass(frozen=True)
class _Call:
    """The call that was traced for all calls like it."""

    number: int
    block: str
    outputs: TreeSpec
    dtypes: list[torch.dtype]
    shapes: list[torch.Size]


class TracedOnce(contextlib.AbstractContextManager["TracedOnce"]):
    """Within it, a trace of the module has repeated blocks once.

    Attributes:
        weights: weights and buffers of the module, by name.
        spared: how many calls of blocks were not traced.
    """

    def __init__(self, module: nn.Module, *, enabled: bool) -> None:
        self.weights = dict(_named_tensors(module))
        self.spared = 0
        self._kinds = dict(repeated_blocks(module)) if enabled else {}
        self._modules = {name: module.get_submodule(name) for name in self._kinds}
        self._calls: dict[Hashable, _Call] = {}
        self._count = 0

    def __enter__(self) -> "TracedOnce":
        for name, block in self._modules.items():
            block.forward = partial(self._called, name, block.forward)
        return self

    def __exit__(self, *error: object) -> None:
        for block in self._modules.values():
            del block.forward  # that of the class shows again

    def _called(self, name: str, forward: Any, /, *args: Any, **kwargs: Any) -> Any:
        given, spec = tree_flatten((args, kwargs))
        key = (self._kinds[name], repr(spec), _described(given), torch.is_autocast_enabled("cpu"))
        if known := self._calls.get(key):
            return self._again(name, known, given)
        self._count += 1
        before = _state(self._modules[name])
        args, kwargs = tree_unflatten(self._marked(ENTER, given), spec)
        returned, outputs = tree_flatten(forward(*args, **kwargs))
        is_pure = _are_same(before, _state(self._modules[name]))
        if is_pure and all(isinstance(leaf, Tensor) for leaf in returned):
            returned = self._marked(LEAVE, returned)
            dtypes, shapes = [leaf.dtype for leaf in returned], [leaf.shape for leaf in returned]
            self._calls[key] = _Call(self._count, name, outputs, dtypes, shapes)
        return tree_unflatten(returned, outputs)

    def _marked(self, operator: str, leaves: list[Any]) -> list[Any]:
        """The leaves, each tensor behind an operator that has its place among the tensors."""
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        marked: dict[int, Tensor] = {}
        for index, tensor in enumerate(tensors):
            if id(tensor) not in marked:  # what is given twice stays one and the same for the block
                marked[id(tensor)] = torch.onnx.ops.symbolic(
                    f"{DOMAIN}::{operator}",
                    [tensor],
                    {"call": self._count, "index": index},
                    dtype=tensor.dtype,
                    shape=tensor.shape,
                    version=1,
                )
        return [marked.get(id(leaf), leaf) for leaf in leaves]

    def _again(self, name: str, known: _Call, given: list[Any]) -> Any:
        self.spared += 1
        outputs = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::{AGAIN}",
            [leaf for leaf in given if isinstance(leaf, Tensor)],
            {"call": known.number, "traced": known.block, "block": name},
            dtypes=known.dtypes,
            shapes=known.shapes,
            version=1,
        )
        return tree_unflatten(list(outputs), known.outputs)


def repeated_blocks(module: nn.Module) -> Iterator[tuple[str, Hashable]]:
    """Names of the outermost submodules that are there more than once, and what those that are alike have in common.

    Blocks are alike if they are of one class and all their attributes are equal but the values of their weights and
    buffers. One whose weights are used elsewhere as well is none.
    """
    found = _Kinds()
    kinds = {name: kind for name, part in module.named_modules() if name and (kind := found.of(part))}
    copies, shared = Counter(kinds.values()), _shared(module)
    waiting = [("", module)]
    while waiting:
        prefix, parent = waiting.pop()
        for child_name, child in parent.named_children():
            name = f"{prefix}{child_name}"
            own = {id(tensor) for _, tensor in _named_tensors(child)}
            if _is_block(child) and copies[kinds.get(name)] > 1 and not shared & own:
                yield name, kinds[name]
            else:
                waiting.append((f"{name}.", child))


def _is_block(module: nn.Module) -> bool:
    """Something to call, made of several operators."""
    return any(True for _ in module.children()) and not isinstance(module, nn.ModuleList | nn.ModuleDict)


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _shared(module: nn.Module) -> set[int]:
    """Weights and buffers that have several names."""
    names = Counter(id(tensor) for _, tensor in _named_tensors(module))
    return {tensor for tensor, count in names.items() if count > 1}


class _Kinds:
    """What modules are apart from the values of their weights and buffers, each found once."""

    def __init__(self) -> None:
        self._found: dict[nn.Module, Hashable] = {}

    def of(self, module: nn.Module) -> Hashable:
        """Equal for modules that differ in those values only; none where that is not known."""
        try:
            return self._of(module)
        except (TypeError, RecursionError):  # attributes of other types, or one that has the module itself
            return None

    def _of(self, module: nn.Module) -> Hashable:
        if module not in self._found:
            attributes = sorted(vars(module).items())
            self._found[module] = (
                type(module),
                tuple((name, self._value(it, name in TENSORS)) for name, it in attributes),
            )
        return self._found[module]

    def _value(self, value: Any, by_shape: bool = False) -> Hashable:
        """What two values that a module may have must have in common.

        Raises:
            TypeError: it is not known.
        """
        match value:
            case nn.Module():
                return self._of(value)
            case Tensor():
                return (value.dtype, tuple(value.shape)) if by_shape else id(value)
            case dict():
                return type(value), tuple((key, self._value(item, by_shape)) for key, item in value.items())
            case list() | tuple() | set() | frozenset():
                inner = frozenset if isinstance(value, set | frozenset) else tuple
                return type(value), inner(map(self._value, value))
            case FunctionType() | BuiltinFunctionType():
                return id(value)
        if not isinstance(value, VALUES):
            raise TypeError(type(value))
        return type(value), value, repr(value)  # of 0.0 and -0.0


def _state(module: nn.Module) -> list[Any]:
    """All that a call must leave as it was for the next one to do the same: names, attributes, and what is in them."""
    state: list[Any] = []
    for part in module.modules():
        for name, value in vars(part).items():
            state += [name, value]
            if isinstance(value, dict):
                state += [*value.keys(), *value.values()]
            elif isinstance(value, list | tuple | set):
                state += value
    return state


def _are_same(before: list[Any], after: list[Any]) -> bool:
    return len(before) == len(after) and all(one is other for one, other in zip(before, after, strict=True))


def _described(given: list[Any]) -> Hashable:
    """Equal for arguments that a trace does not tell apart."""
    places = {id(leaf): place for place, leaf in reversed(list(enumerate(given)))}
    return tuple(_argument(leaf, places[id(leaf)]) for leaf in given)


def _argument(leaf: Any, first_place: int) -> Hashable:
    match leaf:
        case Tensor():
            return Tensor, leaf.dtype, tuple(map(str, leaf.shape)), first_place
        case torch.SymInt() | torch.SymFloat() | torch.SymBool():
            return type(leaf), str(leaf)
    return (type(leaf), leaf, repr(leaf)) if isinstance(leaf, VALUES) else id(leaf)
