"""Makes an ONNX graph smaller without changing what it computes.

The weights are shared with the module while the passes run. onnxsim copies them, and onnxslim merges equal weights, so
that the graph would depend on their values.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
import onnxscript.rewriter
from onnx_ir.passes import common
from onnxscript.rewriter import RewriteRule, onnx_fusions
from onnxscript.rewriter.rules import common as rules


def _gelu_rule(function: str, halved: Callable[[Any, ir.Value, ir.Value, ir.Value], ir.Value]) -> RewriteRule:
    """x (1/2 (1 + f(...))) in the order by which ONNX Runtime recognizes this GELU; the values are the same.

    Args:
        halved: returns x, 1/2 and 1 + f(...) multiplied.
    """

    def pattern(op: Any, x: ir.Value, half: ir.Value, y: ir.Value, one: ir.Value) -> ir.Value:
        return op.Mul(x, op.Mul(half, op.Add(getattr(op, function)(y), one)))

    def replacement(op: Any, x: ir.Value, half: ir.Value, y: ir.Value, one: ir.Value) -> ir.Value:
        return halved(op, x, half, op.Add(getattr(op, function)(y), one))

    return RewriteRule(pattern, replacement, name=f"Gelu{function}")


def _mish_rule(pattern: Callable[[Any, ir.Value], ir.Value], name: str) -> RewriteRule:
    """Mish, x tanh(ln(1 + e^x)), by one exponential: x m / (2 - m), where m = s (2 - s) and s is the sigmoid of x.

    Exact, because 1 - s = 1 / (1 + e^x) and tanh(ln y) = (y^2 - 1) / (y^2 + 1). Nothing overflows: 0 <= m <= 1.
    """

    def replacement(op: Any, x: ir.Value) -> ir.Value:
        two = op.Constant(value_float=2.0)
        s = op.Sigmoid(x)
        m = op.Mul(s, op.Sub(two, s))
        return op.Div(op.Mul(x, m), op.Sub(two, m))

    return RewriteRule(pattern, replacement, name=name)


# Of the rules that onnxscript applies by default, those that such graphs need, each behind operators without which it
# finds nothing: every rule is tried at every node. One of the others, which splits slices, has several outputs, and for
# such a rule the matcher indexes the whole graph at every node.
RULES: list[tuple[set[str], RewriteRule]] = [
    ({"Add"}, rules.add_0_rule),
    ({"Sub"}, rules.sub_0_rule),
    ({"Mul"}, rules.mul_by_1_rule),
    ({"Div"}, rules.div_by_1_rule),
    ({"Dropout"}, rules.dropout_inference_rule),
    ({"Dropout"}, rules.dropout_zero_rule),
    ({"ConstantOfShape", "Cast"}, rules.cast_constant_of_shape_rule),
    ({"ConstantOfShape", "Cast"}, rules.cast_constant_of_shape_without_value_rule),
    ({"Slice"}, rules.collapse_slice_rule),
    ({"Slice"}, rules.collapse_slice2_rule),
    ({"Reshape"}, rules.materialize_reshape_shape_rule),
    ({"Min"}, rules.min_min_rule),
    ({"Max"}, rules.max_max_rule),
    ({"Min", "Max"}, rules.min_max_rule),
    ({"Min", "Max"}, rules.max_min_rule),
    ({"Cast"}, rules.cast_cast_rule),
    ({"Cast"}, rules.no_op_cast_rule),
    ({"Expand"}, rules.no_op_expand_rule),
    ({"Flatten"}, rules.flatten_to_reshape_rule),
    ({"Reshape"}, rules.reshape_reshape_rule),
    ({"Transpose"}, rules.no_op_transpose_rule),
    ({"Transpose"}, rules.transpose_transpose_rule),
    ({"Unsqueeze"}, rules.unsqueeze_unsqueeze_rule),
    ({"Squeeze", "Reshape"}, rules.squeeze_reshape_1d_rule),
    ({"ScatterND"}, rules.no_op_dynamic_scatter_nd_rule),
    ({"ScatterND"}, rules.no_op_static_scatter_nd_rule),
    ({"Conv"}, rules.normalize_pad_format_conv_rule),
    ({"Pad", "Conv"}, rules.fuse_pad_into_conv_rule),
    ({"BatchNormalization", "Conv"}, rules.fuse_batchnorm_into_conv_rule),
    ({"BatchNormalization", "ConvTranspose"}, rules.fuse_batchnorm_into_conv_transpose_rule),
    ({"BatchNormalization", "Gemm"}, rules.fuse_batchnorm_into_gemm_rule),
    ({"Reshape", "MatMul"}, rules.one_reshape_matmul_reshape_rule),
    ({"Reshape", "MatMul"}, rules.two_reshapes_matmul_reshape_rule),
    ({"Erf", "Mul"}, _gelu_rule("Erf", lambda op, x, half, y: op.Mul(op.Mul(x, y), half))),
    ({"Tanh", "Mul"}, _gelu_rule("Tanh", lambda op, x, half, y: op.Mul(op.Mul(x, half), y))),
]
# ONNX Runtime computes Mish by Softplus and Tanh, and its Softplus takes longer than all of this. Not where a graph
# becomes one of 16 bits: there Softplus and Mish are kept in fp32 by name.
FP32_RULES: list[tuple[set[str], RewriteRule]] = [
    ({"Softplus", "Tanh"}, _mish_rule(lambda op, x: op.Mul(x, op.Tanh(op.Softplus(x))), "SoftplusMish")),
    ({"Mish"}, _mish_rule(lambda op, x: op.Mish(x), "Mish")),
]
ROUNDS = 4
REARRANGES = {"Reshape", "Transpose"}
PROJECTS = {"MatMul", "Gemm"}
SMALL = 64  # elements; larger equal tensors are weights, which another checkpoint makes unequal


def simplify(model: ir.Model, *, fp32: bool = True) -> dict[str, float]:
    """Fold constants, join neighbouring transposes and casts, drop what is computed twice; in place.

    Args:
        fp32: whether the graph stays in fp32.

    Returns:
        The weights that were multiplied by a scalar, and by which.
    """
    common.InlinePass()(model)
    common.ShapeInferencePass()(model)
    table = RULES + FP32_RULES if fp32 else RULES
    for _ in range(ROUNDS):
        onnxscript.optimizer.fold_constants(model, onnx_shape_inference=True)
        rewritten = _rewrite(model, table)
        common.RemoveUnusedNodesPass()(model)
        if not rewritten:
            break  # nothing more can be folded
    onnx_fusions.fuse(model)  # into the operators that opset 23 brought
    for cleanup in (
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(size_limit=SMALL),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        cleanup(model)
    scales = _fold_scales(model)
    common.RemoveUnusedNodesPass()(model)
    return scales


def _rewrite(model: ir.Model, table: list[tuple[set[str], RewriteRule]]) -> bool:
    """Apply the rules once; whether one has found something."""
    operators = {node.op_type for node in model.graph}
    chosen = [rule for needed, rule in table if needed <= operators]
    return bool(chosen) and onnxscript.rewriter.RewritePass(chosen)(model).modified


def _fold_scales(model: ir.Model) -> dict[str, float]:
    """Multiply scalars into the weight of the projection they scale, before or after it.

    Attention's 1/sqrt(d) goes this way: one node less per block, exact when a power of two. GELU's 1/2 does not:
    engines recognize GELU by it.
    """
    scales: dict[str, float] = {}
    for node in list(model.graph):
        scale, scaled = _scale_and_scaled(node)
        if scale is None or scaled is None or node.outputs[0].is_graph_output() or _is_gelu(node):
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


def _is_gelu(half: ir.Node) -> bool:
    """Whether a product is x (1 + f(...)) / 2, or is multiplied by 1 + f(...), where f is erf or tanh."""
    products = [*_producers(half), *(use.node for use in half.outputs[0].uses())]
    sums = [node for product in products if product.op_type == "Mul" for node in _producers(product)]
    functions = [node for node in sums if node.op_type == "Add" for node in _producers(node)]
    return any(node.op_type in {"Erf", "Tanh"} for node in functions)


def _producers(node: ir.Node) -> list[ir.Node]:
    found = [value.producer() for value in node.inputs if value is not None]
    return [producer for producer in found if producer is not None]


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
