"""Spares the dynamo exporter a second trace of the whole graph where it would change next to nothing.

Before it translates a graph, the exporter decomposes the operators that it has no translation for, by tracing the graph
again, which takes longer than the export itself. Most graphs have a handful of such operators, and each has an
equivalent that the exporter translates; only what has none needs the second trace.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

aten = torch.ops.aten
Call = tuple[Any, tuple[Any, ...], dict[str, Any]]


class FewestDecompositions(contextlib.AbstractContextManager["FewestDecompositions"]):
    """Within it, `ExportedProgram.run_decompositions` returns a program as it is where that may do.

    Attributes:
        returned: whether it has done so; then a failed translation is worth another attempt without.
    """

    def __init__(self) -> None:
        self.returned = False
        self._original = ExportedProgram.run_decompositions

    def __enter__(self) -> "FewestDecompositions":
        def run_decompositions(program: ExportedProgram, decomp_table: Any = None, **options: Any) -> ExportedProgram:
            if decomp_table is not None and _may_do(program.graph_module, decomp_table):
                self.returned = True
                return program
            return self._original(program, decomp_table, **options)

        ExportedProgram.run_decompositions = run_decompositions  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        ExportedProgram.run_decompositions = self._original  # type: ignore[method-assign]


def _may_do(module: fx.GraphModule, table: Mapping[Any, Any]) -> bool:
    """Whether nothing is to be decomposed, after some operators were replaced by their equivalents in place.

    Args:
        table: decompositions of operators without a translation, but not of all.
    """
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in _EQUIVALENTS:
            with module.graph.inserting_before(node):
                node.target, node.args, node.kwargs = _EQUIVALENTS[node.target](*node.args, **node.kwargs)
    module.recompile()
    calls = [node.target for node in module.graph.nodes if node.op == "call_function"]
    return not any(map(_writes, calls)) and not any(call in table for call in calls) and not _has_subgraphs(module)


def _writes(call: Any) -> bool:
    """Whether an operator changes its arguments, which only another trace can undo."""
    return isinstance(call, torch._ops.OpOverload) and call._schema.is_mutable


def _has_subgraphs(module: fx.GraphModule) -> bool:
    return any(isinstance(child, fx.GraphModule) for child in module.children())


def _to_dtype(x: Any, dtype: torch.dtype, *_: Any, **__: Any) -> Call:
    return aten._to_copy.default, (x,), {"dtype": dtype}


def _rsub(x: Any, other: Any, alpha: Any = 1) -> Call:
    return aten.sub.Tensor, (other, x), {} if alpha == 1 else {"alpha": alpha}


def _conv_transpose1d(x: Any, weight: Any, bias: Any = None, *sizes: Any, **named: Any) -> Call:
    names = ("stride", "padding", "output_padding", "groups", "dilation")
    given = {"stride": [1], "padding": [0], "output_padding": [0], "groups": 1, "dilation": [1]}
    given |= dict(zip(names, sizes, strict=False)) | named
    order = (given["stride"], given["padding"], given["dilation"], True, given["output_padding"], given["groups"])
    return aten.convolution.default, (x, weight, bias, *order), {}


def _flatten(x: fx.Node, start_dim: int = 0, end_dim: int = -1) -> Call:
    shape = x.meta["val"].shape
    start, end = start_dim % max(len(shape), 1), end_dim % max(len(shape), 1)
    return aten.reshape.default, (x, [*_sizes(x, 0, start), -1, *_sizes(x, end + 1, len(shape))]), {}


def _sizes(x: fx.Node, start: int, end: int) -> list[int | fx.Node]:
    """Sizes of dimensions; of dynamic ones the nodes that have them."""
    sizes = x.meta["val"].shape
    return [_size_node(x, dim) if isinstance(sizes[dim], torch.SymInt) else sizes[dim] for dim in range(start, end)]


def _size_node(x: fx.Node, dim: int) -> fx.Node:
    """The first in the graph that has this size, or a new one."""
    size = x.meta["val"].shape[dim]
    for node in x.graph.nodes:
        if node is x:
            break
        if isinstance(value := node.meta.get("val"), torch.SymInt) and value.node.expr == size.node.expr:
            return node
    node = x.graph.call_function(aten.sym_size.int, (x, dim))
    node.meta["val"] = size
    return node


# Operators that the exporter decomposes, or translates into more nodes than their equivalents, and how to call these.
_EQUIVALENTS: dict[Any, Callable[..., Call]] = {
    aten.flatten.using_ints: _flatten,
    aten.to.dtype: _to_dtype,
    aten.__and__.Tensor: lambda x, y: (aten.bitwise_and.Tensor, (x, y), {}),
    aten.__or__.Tensor: lambda x, y: (aten.bitwise_or.Tensor, (x, y), {}),
    aten.rsub.Scalar: _rsub,
    aten.conv_transpose1d.default: _conv_transpose1d,
}
