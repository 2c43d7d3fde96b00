"""What is read from an ONNX file that is damaged: one error, whatever the damage is."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from tasks.runtimes.onnxruntime_.contents import SCALES, contents
from tests.support.errors import error_of


def model_file(folder: Path, change: Callable[[ModelProto], object]) -> Path:
    """A product with one weight, after `change`."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])],
    )
    model = helper.make_model(graph)
    change(model)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def set_type(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 63


def set_type_of_weight(model: ModelProto) -> None:
    model.graph.initializer[0].data_type = 63


def test_a_sound_file_has_its_weight_and_its_format(tmp_path: Path) -> None:
    found = contents(model_file(tmp_path, lambda model: None))
    assert [weight.name for weight in found.weights] == ["w"]
    assert found.formats == {"fp32"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_type, "no name defined for value 63"),
        (set_type_of_weight, "no name defined for value 63"),
        (lambda model: onnx.helper.set_model_props(model, {SCALES: "{"}), "Expecting property name"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: Callable[[ModelProto], object], reason: str) -> None:
    text = str(error_of(contents, model_file(tmp_path, change)))
    assert "m.onnx: is not an ONNX file" in text
    assert reason in text
    assert "\n" not in text
