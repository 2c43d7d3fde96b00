"""Finds what would overflow in fp16 before a graph is converted to it, and runs a converted file, fp16 or bf16.

The largest value of every tensor is measured in fp32: on a CPU, ONNX Runtime computes many fp16 operators in fp32
without rounding between them, so a graph that overflows on a GPU passes there.
"""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
from torch import Tensor

from tasks.actions.export_onnx.low_precision_formats import LowPrecision
from tasks.errors import UserError
from tasks.runtimes.onnxruntime_.session import OnnxRuntimeSession, open_artifact

HEADROOM = 4.0  # real inputs may give larger values than the samples
MOVES = {"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Slice", "Concat", "Expand", "Identity", "Split", "Pad"}
AT_ONCE = 200  # tensors fetched per run when looking for the first that is not finite

Samples = Iterable[Mapping[str, Tensor]]


def overflowing_nodes(model: ir.Model, samples: Samples, low: LowPrecision) -> set[ir.Node]:
    """The nodes of the fp32 graph whose outputs overflow in the format, and the nodes that read these outputs.

    All of them have to stay in fp32. A residual stream is a chain of such sums; a normalization ends the chain.

    Raises:
        UserError: values overflow in fp32 itself; names the first node.
    """
    nodes, peaks = list(model.graph), _peaks(model, samples)
    waiting = [nodes[place] for place, peak in peaks.items() if peak > low.largest]
    overflowing = set(waiting)
    while waiting:
        for reader in [use.node for output in waiting.pop().outputs for use in output.uses()]:
            if reader not in overflowing and reader.op_type in MOVES:
                waiting.append(reader)
            overflowing.add(reader)
    return overflowing


def _peaks(model: ir.Model, samples: Samples) -> dict[int, float]:
    """Largest magnitude of each node's output by the node's index; positive values are multiplied by HEADROOM.

    Attention masks are large negative numbers on purpose, so only positive values show the range of a tensor.
    """
    copy, places = _probed(model)
    largest = np.zeros(len(places))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "probed.onnx"
        ir.save(copy, file, external_data="weights")
        session = onnxruntime.InferenceSession(file, _node_by_node(), providers=["CPUExecutionProvider"])
        for sample in samples:
            found = np.array(session.run(None, {name: value.numpy() for name, value in sample.items()}))
            largest = np.maximum(largest, np.where(np.isfinite(found), found, np.inf))
    broken = [place for place, peak in zip(places, largest, strict=True) if not np.isfinite(peak)]
    if broken:
        raise _overflow(model.graph[broken[0]], "makes NaN or Inf in fp32", remedy="Use other weights")
    return dict(zip(places, largest.tolist(), strict=True))


def require_finite(path: Path, samples: Samples, low: LowPrecision) -> None:
    """Run the converted file.

    Raises:
        UserError: an output has NaN or Inf; names the first node that makes one, and the setting.
    """
    session = open_artifact(path, device="cpu", threads=1)
    for sample in samples:
        given = {name: x.to(session.dtypes[name]) for name, x in sample.items()}
        if not all(output.isfinite().all() for output in session(given)):
            del session
            node = _first_not_finite(path, given, low)
            keep = f"'onnx.keep_fp32=[...,\"{node.name}\"]', or all {node.op_type}"
            remedy = f"Keep it and what reads it in fp32: {keep}; where an output is so large, set precision=fp32"
            raise _overflow(node, f"makes NaN or Inf in {low.name}", remedy=remedy)


def _probed(model: ir.Model) -> tuple[ir.Model, list[int]]:
    """A copy with shared weights that returns the largest magnitude of each node's output, and the nodes' indices."""
    places = [place for place, node in enumerate(model.graph) if _makes_numbers(node)]
    copy = model.clone()
    nodes = list(copy.graph)
    copy.graph.outputs.clear()
    for i in places:
        negative = ir.node("Neg", [nodes[i].outputs[0]])
        magnitude = ir.node("LeakyRelu", [negative.outputs[0]], {"alpha": -HEADROOM})  # -x where x < 0, else HEADROOM x
        peak = ir.node("ReduceMax", [magnitude.outputs[0]], {"keepdims": 0})
        copy.graph.insert_after(nodes[i], [negative, magnitude, peak])
        peak.outputs[0].name, peak.outputs[0].dtype, peak.outputs[0].shape = (
            f"peak.{i}",
            ir.DataType.FLOAT,
            ir.Shape([]),
        )
        copy.graph.outputs.append(peak.outputs[0])
    return copy, places


def _makes_numbers(node: ir.Node) -> bool:
    return len(node.outputs) == 1 and node.outputs[0].dtype == ir.DataType.FLOAT and node.op_type not in MOVES


def _node_by_node() -> onnxruntime.SessionOptions:
    """The default order runs all measurements last and keeps every tensor until then: 5.8 GB instead of 1.0."""
    options = onnxruntime.SessionOptions()
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.intra_op_num_threads = 1
    return options


def _overflow(node: ir.Node, what: str, *, remedy: str) -> UserError:
    return UserError(f"the node {what}", where=f"{node.op_type} {node.name}", remedy=remedy)


def _first_not_finite(path: Path, sample: Mapping[str, Tensor], low: LowPrecision) -> ir.Node:
    """Fetch every tensor, some at a time: a graph's outputs really have their declared format."""
    model = ir.load(path)
    nodes = [node for node in model.graph if node.outputs[0].dtype in {ir.DataType.FLOAT, low.type}]
    for start in range(0, len(nodes), AT_ONCE):
        some = nodes[start : start + AT_ONCE]
        for node, values in zip(some, _fetched(model, some, path.parent, sample), strict=True):
            if not values.isfinite().all():
                return node
    return nodes[-1]


def _fetched(model: ir.Model, nodes: list[ir.Node], folder: Path, sample: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    model.graph.outputs[:] = [node.outputs[0] for node in nodes]
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".onnx") as file:
        ir.save(model, file.name)
        session: OnnxRuntimeSession = open_artifact(Path(file.name), device="cpu", threads=1)
        return session(sample)
