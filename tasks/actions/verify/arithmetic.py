"""Runs a module in another arithmetic, operator by operator: in float64, or with every result rounded to 16 bits.

What a format itself costs on given inputs is the distance between two such runs of the original module. Weights are
converted where an operator reads them, so no second copy of the model exists and modules that insist on fp32 inside
are followed, too. Constants that do not depend on the inputs (tables of frequencies) stay as they are in every run,
as they do in an exported file.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from tasks.actions.verify.summation import in_lanes

EXACT = {"sin", "cos"}  # near 1000 rad 16-bit numbers are half a radian apart: nobody computes angles in them
# What carries an angle from the inputs to its sine.
CARRIES = {
    "add", "alias", "detach", "div", "expand", "mul", "neg", "permute", "reshape", "select", "slice", "sub", "t",
    "_to_copy", "transpose", "unsqueeze", "view",
}  # fmt: skip
# Results that are rounded already if the operands are; read as they are.
MOVES = {
    "alias", "as_strided", "cat", "clone", "constant_pad_nd", "copy", "detach", "embedding", "expand", "flip", "gather",
    "index", "index_select", "lift_fresh", "masked_fill", "neg", "permute", "relu", "repeat", "reshape", "roll",
    "select", "slice", "slice_scatter", "split", "split_with_sizes", "squeeze", "stack", "t", "transpose", "unbind",
    "unsqueeze", "_unsafe_view", "view", "where",
}  # fmt: skip
# Reads of weights by an index: the first operators on inputs that are integers.
LOOKUPS = {"embedding", "gather", "index", "index_select"}
# Tensors that may be filled in place later with what depends on the inputs.
FACTORIES = {
    "empty", "empty_like", "full", "full_like", "new_empty", "new_full", "new_ones", "new_zeros", "ones", "ones_like",
    "zeros", "zeros_like",
}  # fmt: skip

# Share of results that `seed` moves by one unit in the last place: a quarter of the energy of rounding itself (1/12 of
# a unit squared), and after a few operators no result is the same.
MOVED = 1 / 48

COMPARE_DTYPES = {
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "gru", "lstm", "rnn_relu",
    "rnn_tanh",
}  # fmt: skip

Result = TypeVar("Result")


def exact_operators(run: Callable[[], object]) -> set[int]:
    """Numbers of the operators of a run that lead to an angle and are never rounded."""
    with sdpa_kernel(SDPBackend.MATH), Operators() as operators:
        run()
    return operators.exact


def rounded(
    run: Callable[[], Result], dtype: torch.dtype, *, exact: set[int] | None = None, seed: int | None = None
) -> Result:
    """What a run on fp32 inputs returns if every result is rounded to a format.

    Args:
        dtype: 16 bits, or float32, which rounds nothing.
        exact: of `exact_operators`, where it is known already.
        seed: with one, the run is as another engine's: some results are moved to the next number of the format at
            random, and sums are added up in lanes. The errors of such a run are other ones, and as large as those of a
            run without except where the order of a sum matters (`summation`).

    Raises:
        RuntimeError: the module cannot be run in another arithmetic.
    """
    exact = exact_operators(run) if exact is None else exact
    # Attention as the operators that it is exported as, so that each is seen.
    with sdpa_kernel(SDPBackend.MATH), Rounded(dtype, exact, seed=seed):
        return run()


class _WidenedCalls(TorchFunctionMode):
    """Widens the weights of the functions that compare dtypes before they reach an operator."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in COMPARE_DTYPES:
            leaves = tree_leaves((args, kwargs))
            if any(isinstance(leaf, Tensor) and leaf.dtype is torch.float64 for leaf in leaves):
                args, kwargs = tree_map(_widened, args), tree_map(_widened, kwargs)
        return func(*args, **kwargs)


class Widened(TorchDispatchMode):
    """Everything that depends on inputs, whose floats must be float64, is computed in float64."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = _WidenedCalls()

    def __enter__(self) -> "Widened":
        self._calls.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._calls.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        dependent = any(tensor.dtype is torch.float64 for tensor in tensors)
        if _name(func) in FACTORIES:
            return _widened(func(*args, **kwargs))
        if not dependent and _name(func) not in LOOKUPS:
            return func(*args, **kwargs)
        if dependent and func._schema.is_mutable and tensors[0].dtype is torch.float32:
            raise RuntimeError(f"{func} writes into an fp32 tensor of the module")
        return func(*tree_map(_widened, args), **tree_map(_widened, kwargs))


class Operators(TorchDispatchMode):
    """Changes nothing; notes which of the operators lead to an angle, by their number in the call."""

    def __init__(self) -> None:
        super().__init__()
        self.exact: set[int] = set()
        self._names: list[str] = []
        self._constant: list[bool] = []  # whether an operator reads neither inputs nor weights
        self._made_from: list[list[int]] = []
        self._maker = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        number, name = len(self._names), _name(func)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self._names.append(name)
        self._made_from.append([self._maker[tensor] for tensor in inputs if tensor in self._maker])
        made_of_constants = all(tensor in self._maker and self._constant[self._maker[tensor]] for tensor in inputs)
        self._constant.append(made_of_constants)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._maker[leaf] = number
        if name in EXACT:
            self._mark(number)
        return result

    def _mark(self, number: int) -> None:
        waiting = [number]
        while waiting:
            current = waiting.pop()
            if current not in self.exact:
                self.exact.add(current)
                makers = self._made_from[current]
                waiting += [maker for maker in makers if self._constant[maker] or self._names[maker] in CARRIES]


class Rounded(TorchDispatchMode):
    """Every operator computes in fp32 on numbers of a 16-bit format and its result is rounded to that format.

    Args:
        dtype: float16 or bfloat16; what overflows stays in fp32, as in an artifact that is of use.
        exact: of `Operators`, from the same call in fp32: numbers of the operators that stay in fp32.
        seed: see `rounded`.
    """

    def __init__(self, dtype: torch.dtype, exact: set[int], *, seed: int | None = None) -> None:
        super().__init__()
        self._dtype, self._exact, self._number, self._seed = dtype, exact, 0, seed

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        number, kwargs = self._number, kwargs or {}
        self._number += 1
        # What an operator that moves numbers returns may share its memory with what it was given.
        if number in self._exact or _name(func) in MOVES:
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            changed, *rest = args
            result = func(changed, *tree_map(self._round, rest), **tree_map(self._round, kwargs))
            return result.copy_(self._result(result)) if isinstance(result, Tensor) else result
        computed = self._operator(func, args, kwargs)
        return tree_map(self._result, computed(*tree_map(self._round, args), **tree_map(self._round, kwargs)))

    def _operator(self, func: Any, args: Any, kwargs: Any) -> Callable[..., Any]:
        is_sum_in_fp32 = bool(args) and _is_fp32(args[0]) and args[0].dim() > 0 and kwargs.get("dtype") is None
        return (in_lanes(_name(func)) if self._seed is not None and is_sum_in_fp32 else None) or func

    def _result(self, value: Any) -> Any:
        if self._seed is None or not _is_fp32(value):
            return self._round(value)
        random = torch.Generator(value.device).manual_seed(hash((self._seed, self._number)))
        dice = torch.rand(value.shape, generator=random, device=value.device)
        step = (dice < MOVED / 2).float() - (dice > 1 - MOVED / 2).float()
        return self._round(self._round(value) * (1 + torch.finfo(self._dtype).eps * step))

    def _round(self, value: Any) -> Any:
        if not _is_fp32(value):
            return value
        result = value.to(self._dtype).float()
        return torch.where(result.isinf(), value, result)


def _is_fp32(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype is torch.float32


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype is torch.float32 else value
    return torch.float64 if value is torch.float32 else value


def _name(func: Any) -> str:
    """``mul`` for aten::mul.Tensor and aten::mul_.Tensor."""
    return str(func._schema.name).partition("::")[2].rstrip("_")
