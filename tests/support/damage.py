"""Damages an exported ONNX file in ways that exporters, optimisers and people do, the file otherwise unchanged."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Damage = Callable[[onnx.ModelProto], None]
PRODUCTS = ("MatMul", "Conv", "Gemm")
POSITIONS = ("Unsqueeze", "Slice", "Range", "Gather")  # what makes positions and other parts of shapes


def damaged(path: Path, damage: Damage, place: Path) -> Path:
    """A damaged copy of a file."""
    model = onnx.load(path)
    before = model.SerializeToString()
    damage(model)
    assert model.SerializeToString() != before
    onnx.save(model, place)
    return place


def scale_by(factor: float) -> Damage:
    """All of one weight by a factor."""
    return lambda model: _change(model, _weight(model), lambda values: values * factor)


def scale_a_weight(model: onnx.ModelProto) -> None:
    """All of one weight by 1 %."""
    scale_by(1.01)(model)


def change_one_element(model: onnx.ModelProto) -> None:
    """One element of one weight by as much as the weight is large."""

    def change(values: np.ndarray) -> np.ndarray:
        values.flat[values.size // 2] += np.abs(values).max()
        return values

    _change(model, _weight(model), change)


def zero_a_bias(model: onnx.ModelProto) -> None:
    biases = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 1 and tensor.dims[0] > 8]
    floats = [tensor for tensor in biases if _is_float(tensor) and np.ptp(numpy_helper.to_array(tensor)) > 0]
    _change(model, floats[len(floats) // 2], np.zeros_like)


def read_a_damaged_copy(model: onnx.ModelProto) -> None:
    """The right weight stays in the file, and the graph reads another one."""
    weight = _weight(model)
    copy = numpy_helper.from_array(_scaled(weight, 1.02), f"{weight.name}.copy")
    model.graph.initializer.append(copy)
    for node in model.graph.node:
        node.input[:] = [copy.name if name == weight.name else name for name in node.input]


def add_a_damaged_copy(model: onnx.ModelProto) -> None:
    """A weight is stored twice, one of its readers reads the wrong copy and the sum of both is read."""
    weight = _weight(model)
    copy = numpy_helper.from_array(_scaled(weight, 1.02), f"{weight.name}.copy")
    model.graph.initializer.append(copy)
    half = numpy_helper.from_array(np.array(0.5, numpy_helper.to_array(weight).dtype), f"{weight.name}.half")
    model.graph.initializer.append(half)
    _pass_through(
        model,
        weight.name,
        lambda source, out: [
            helper.make_node("Add", [source, copy.name], [f"{source}.sum"]),
            helper.make_node("Mul", [f"{source}.sum", half.name], [out]),
        ],
    )


def quantize_a_weight(model: onnx.ModelProto) -> None:
    """A weight is stored in int8, as tools for quantization do it."""
    weight = _weight(model)
    values = numpy_helper.to_array(weight)
    step = np.abs(values).max().astype(values.dtype) / values.dtype.type(127)
    name = weight.name
    weight.CopyFrom(numpy_helper.from_array(np.rint(values / step).astype(np.int8), name))
    model.graph.initializer.append(numpy_helper.from_array(np.array(step, values.dtype), f"{name}.step"))
    _pass_through(
        model, name, lambda source, out: [helper.make_node("DequantizeLinear", [source, f"{name}.step"], [out])]
    )


def take_in_integers(name: str) -> Damage:
    """An input becomes one of integers, which has lost its digits before anything is compared."""

    def damage(model: onnx.ModelProto) -> None:
        (value,) = [value for value in model.graph.input if value.name == name]
        before = value.type.tensor_type.elem_type
        value.type.tensor_type.elem_type = TensorProto.INT64
        _pass_through(model, name, lambda source, out: [helper.make_node("Cast", [source], [out], to=before)])

    return damage


def drop_a_residual(model: onnx.ModelProto) -> None:
    """A sum of something and what layers make of it becomes what the layers make of it."""
    makers = {output: node for node in model.graph.node for output in node.output}
    residuals = []
    for node in model.graph.node:
        for before, after in (node.input, reversed(node.input)) if node.op_type == "Add" else ():
            if after in makers and makers[after].op_type in POSITIONS:
                continue
            between = _leading_to(after, makers, stop=before)
            if before in between and any(makers[name].op_type in PRODUCTS for name in between if name in makers):
                residuals.append((node, after))
    found, kept = residuals[len(residuals) // 2]
    del found.input[:]
    found.op_type = "Identity"
    found.input.append(kept)


def compute_a_layer_in_bf16(model: onnx.ModelProto) -> None:
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    _pass_through(
        model,
        products[len(products) // 2].output[0],
        lambda name, out: [
            helper.make_node("Cast", [name], [f"{name}.bf16"], to=TensorProto.BFLOAT16),
            helper.make_node("Cast", [f"{name}.bf16"], [out], to=_element_type(model)),
        ],
    )


def rename_an_output(model: onnx.ModelProto) -> None:
    (value,) = [node for node in model.graph.node if model.graph.output[0].name in node.output]
    before, after = model.graph.output[0].name, "renamed"
    value.output[:] = [after if name == before else name for name in value.output]
    for node in model.graph.node:
        node.input[:] = [after if name == before else name for name in node.input]
    model.graph.output[0].name = after


def widen_an_output(model: onnx.ModelProto) -> None:
    """An output in fp64."""
    output = model.graph.output[0]
    (maker,) = [node for node in model.graph.node if output.name in node.output]
    maker.output[:] = [f"{name}.narrow" if name == output.name else name for name in maker.output]
    for node in model.graph.node:
        node.input[:] = [f"{name}.narrow" if name == output.name else name for name in node.input]
    model.graph.node.append(helper.make_node("Cast", [f"{output.name}.narrow"], [output.name], to=TensorProto.DOUBLE))
    output.type.tensor_type.elem_type = TensorProto.DOUBLE


def fix_an_axis(model: onnx.ModelProto) -> None:
    """A dynamic dimension of the inputs becomes a number."""
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param not in {"", "batch", "utterances"}:
                dim.dim_value = 40


def swap_inputs(first: str, second: str) -> Damage:
    """Two inputs of one shape in each other's place."""

    def damage(model: onnx.ModelProto) -> None:
        other = {first: second, second: first}
        for node in model.graph.node:
            node.input[:] = [other.get(name, name) for name in node.input]

    return damage


def shorten_mask(name: str) -> Damage:
    """A mask that is valid for one position less."""

    def damage(model: onnx.ModelProto) -> None:
        for constant, values in (("one", [1]), ("far", [2**31]), ("last", [2])):
            model.graph.initializer.append(numpy_helper.from_array(np.array(values), f"{name}.{constant}"))
        model.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 1]), f"{name}.pads"))
        _pass_through(
            model,
            name,
            lambda source, out: [
                helper.make_node("Slice", [source, f"{name}.one", f"{name}.far", f"{name}.last"], [f"{source}.rest"]),
                helper.make_node("Pad", [f"{source}.rest", f"{name}.pads"], [out]),
            ],
        )

    return damage


def shorten_lengths(name: str) -> Damage:
    """Lengths that are one too small."""

    def damage(model: onnx.ModelProto) -> None:
        type_ = next(value.type.tensor_type.elem_type for value in model.graph.input if value.name == name)
        model.graph.initializer.append(helper.make_tensor(f"{name}.one", type_, [1], [1]))
        _pass_through(model, name, lambda source, out: [helper.make_node("Sub", [source, f"{name}.one"], [out])])

    return damage


def _leading_to(value: str, makers: Mapping[str, onnx.NodeProto], *, stop: str) -> set[str]:
    """All that a value is made from, as far back as `stop`."""
    found, waiting = set(), [value]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += makers[name].input if name in makers and name != stop else []
    return found


def _weight(model: onnx.ModelProto) -> onnx.TensorProto:
    """The weight of a product in the middle of the graph."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) > 1}
    read = [
        stored[name] for node in model.graph.node if node.op_type in PRODUCTS for name in node.input if name in stored
    ]
    return read[len(read) // 2]


def _scaled(tensor: onnx.TensorProto, factor: float) -> np.ndarray:
    values = numpy_helper.to_array(tensor)
    return (values * factor).astype(values.dtype)


def _change(model: onnx.ModelProto, tensor: onnx.TensorProto, change: Callable[[np.ndarray], np.ndarray]) -> None:
    values = numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(numpy_helper.from_array(change(values).astype(values.dtype), tensor.name))


def _pass_through(model: onnx.ModelProto, value: str, nodes: Callable[[str, str], list[onnx.NodeProto]]) -> None:
    """Let all readers of a value read what nodes make of it."""
    changed = f"{value}.damaged"
    readers = [node for node in model.graph.node if value in node.input]
    place = min(index for index, node in enumerate(model.graph.node) if value in node.input)
    for node in readers:
        node.input[:] = [changed if name == value else name for name in node.input]
    for offset, node in enumerate(nodes(value, changed)):
        model.graph.node.insert(place + offset, node)


def _is_float(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)


def _element_type(model: onnx.ModelProto) -> int:
    counted = [tensor.data_type for tensor in model.graph.initializer if _is_float(tensor)]
    return max(set(counted), key=counted.count)
