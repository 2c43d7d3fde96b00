"""Makes an ONNX graph smaller without changing what it computes.

The weights are shared with the module while the passes run. onnxsim copies them, and onnxslim merges equal weights, so
that the graph would depend on their values.
"""

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
import onnxscript.rewriter
from onnx_ir.passes import common
from onnxscript.rewriter.rules import common as rules

RULES = [rules.transpose_transpose_rule, rules.no_op_transpose_rule, rules.cast_cast_rule, rules.no_op_cast_rule]
REARRANGES = {"Reshape", "Transpose"}
PROJECTS = {"MatMul", "Gemm"}
SMALL = 64  # elements; larger equal tensors are weights, which another checkpoint makes unequal


def simplify(model: ir.Model) -> dict[str, float]:
    """Fold constants, join neighbouring transposes and casts, drop what is computed twice; in place.

    Returns:
        The weights that were multiplied by a scalar, and by which.
    """
    common.ShapeInferencePass()(model)
    onnxscript.optimizer.optimize(model, num_iterations=4, onnx_shape_inference=True)
    onnxscript.rewriter.rewrite(model, pattern_rewrite_rules=RULES)
    common.DeduplicateInitializersPass(size_limit=SMALL)(model)
    common.CommonSubexpressionEliminationPass()(model)
    scales = _fold_scales(model)
    common.RemoveUnusedNodesPass()(model)
    return scales


def _fold_scales(model: ir.Model) -> dict[str, float]:
    """Multiply scalars into the weight of the projection they scale, before or after it.

    Attention's 1/sqrt(d) and GELU's 1/2 go this way: one node less per block each, exact when powers of two.
    """
    scales: dict[str, float] = {}
    for node in list(model.graph):
        scale, scaled = _scale_and_scaled(node)
        if scale is None or scaled is None or node.outputs[0].is_graph_output():
            continue
        weight = _weight_before(scaled) or _weight_after(node.outputs[0])
        if weight is not None and weight.const_value is not None:
            weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(scale), name=weight.name)
            ir.convenience.replace_all_uses_with(node.outputs[0], scaled)
            model.graph.remove(node, safe=True)
            scales[weight.name or ""] = scales.get(weight.name or "", 1.0) * scale
    return scales


def _scale_and_scaled(node: ir.Node) -> tuple[float | None, ir.Value | None]:
    if node.op_type != "Mul":
        return None, None
    for scale, scaled in (node.inputs, reversed(node.inputs)):
        tensor = scale.const_value if scale is not None else None
        if tensor is not None and tensor.size == 1 and tensor.dtype == ir.DataType.FLOAT:
            return float(tensor.numpy().item()), scaled
    return None, None


def _weight_before(value: ir.Value) -> ir.Value | None:
    """The weight of the projection that `value` is a mere rearrangement of."""
    while not value.is_graph_output() and len(value.uses()) == 1 and (node := value.producer()) is not None:
        if node.op_type in PROJECTS:
            return _own_weight(node) if len(node.inputs) == 2 else None  # a bias would have to be scaled too
        if node.op_type not in REARRANGES or node.inputs[0] is None:
            return None
        value = node.inputs[0]
    return None


def _weight_after(value: ir.Value) -> ir.Value | None:
    """The weight of the projection that `value` reaches through nothing that is not linear in it."""
    while not value.is_graph_output() and len(value.uses()) == 1:
        (use,) = value.uses()
        if use.node.op_type in PROJECTS:
            return _own_weight(use.node) if use.idx == 0 else None
        if use.node.op_type not in REARRANGES | {"Mul"} or use.node.inputs.count(value) > 1:
            return None
        value = use.node.outputs[0]
    return None


def _own_weight(projection: ir.Node) -> ir.Value | None:
    weight = projection.inputs[1]
    fits = weight is not None and weight.is_initializer() and len(weight.uses()) == 1 and not weight.is_graph_output()
    return weight if fits and weight is not None and weight.dtype == ir.DataType.FLOAT else None
