"""Finds what fp16 cannot hold before a graph is converted to it, and tries a converted file, fp16 or bf16.

The largest value of every tensor is measured in fp32, because ONNX Runtime computes many fp16 operators in fp32 on a
CPU and never rounds between them: a graph that overflows on a GPU passes there.
"""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
from torch import Tensor

from tasks.actions.export_onnx.low_precision_formats import Narrow
from tasks.errors import UserError
from tasks.runtimes.onnxruntime_.session import OnnxRuntimeSession, open_artifact

HEADROOM = 4.0  # real inputs may be louder than the samples
MOVES = {"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Slice", "Concat", "Expand", "Identity", "Split", "Pad"}
AT_ONCE = 200  # tensors fetched per run when looking for the first that is not finite

Samples = Iterable[Mapping[str, Tensor]]


def too_loud(model: ir.Model, samples: Samples, narrow: Narrow) -> set[ir.Node]:
    """The nodes of the fp32 graph that make numbers which the format does not have, and those that read them.

    All of them have to stay in fp32. A residual stream is a chain of such sums; what normalises it ends the chain.

    Raises:
        UserError: fp32 itself is not enough; names the first node.
    """
    nodes, peaks = list(model.graph), _peaks(model, samples)
    waiting = [nodes[place] for place, peak in peaks.items() if peak > narrow.largest]
    loud = set(waiting)
    while waiting:
        for reader in [use.node for output in waiting.pop().outputs for use in output.uses()]:
            if reader not in loud and reader.op_type in MOVES:
                waiting.append(reader)
            loud.add(reader)
    return loud


def _peaks(model: ir.Model, samples: Samples) -> dict[int, float]:
    """Largest magnitude of what each node makes, positive ones HEADROOM times, by the node's place in the graph.

    Masks are large negative numbers by intent; the positive side tells how loud a tensor is.
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


def require_finite(path: Path, samples: Samples, narrow: Narrow) -> None:
    """Run the converted file.

    Raises:
        UserError: an output has NaN or Inf; names the first node that makes one, and the setting.
    """
    session = open_artifact(path, device="cpu", threads=1)
    for sample in samples:
        given = {name: x.to(session.dtypes[name]) for name, x in sample.items()}
        if not all(output.isfinite().all() for output in session(given)):
            del session
            node = _first_not_finite(path, given, narrow)
            keep = f"'onnx.keep_fp32=[...,\"{node.name}\"]', or all {node.op_type}"
            remedy = f"Keep it and what reads it in fp32: {keep}; where an output is so large, set precision=fp32"
            raise _overflow(node, f"makes NaN or Inf in {narrow.name}", remedy=remedy)


def _probed(model: ir.Model) -> tuple[ir.Model, list[int]]:
    """A copy, weights shared, whose outputs are the largest magnitudes of what the nodes at those places make."""
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


def _first_not_finite(path: Path, sample: Mapping[str, Tensor], narrow: Narrow) -> ir.Node:
    """Fetch every tensor, some at a time: as an output a narrow one really is narrow."""
    model = ir.load(path)
    nodes = [node for node in model.graph if node.outputs[0].dtype in {ir.DataType.FLOAT, narrow.type}]
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
