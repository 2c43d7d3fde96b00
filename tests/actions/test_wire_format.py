"""Files of protobuf are read and written field by field as protobuf itself does."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.actions.export_onnx import check as check_module
from tasks.actions.export_onnx.check import check
from tasks.actions.export_onnx.wire_format import fields, head
from tasks.actions.export_onnx.write import write
from tasks.errors import UserError
from tasks.settings.component import ComponentSpec
from tests.support.onnx_jobs import small_component

SHAPES = {"w": (64, 300), "b": (300,), "empty": (0, 3), "scalar": ()}


def model(**changed: np.ndarray) -> onnx.ModelProto:
    """y = x w + b, with weights that lead to nothing."""
    values = {name: np.random.default_rng(0).standard_normal(shape).astype("float32") for name, shape in SHAPES.items()}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 300])],
        [numpy_helper.from_array(value, name) for name, value in (values | changed).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


COMPONENT = ComponentSpec.from_params(
    small_component("Plain") | {"inputs": {"x": {"shape": ["batch", 64]}}, "outputs": {"y": ["batch", 300]}}
)


def checked(path: Path) -> dict[str, object]:
    return check(path, component=COMPONENT, precision="fp32", opset=18, dynamic={})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    onnx.save(model(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool"])
def test_a_written_file_is_what_protobuf_reads(tmp_path, dtype):
    made = ir.from_proto(model(other=np.arange(-3, 3).reshape(2, 3).astype(dtype)))
    expected = ir.to_proto(made)
    write(made, tmp_path / "m.onnx", external_data="auto")
    read = onnx.load(tmp_path / "m.onnx")
    assert [tensor.name for tensor in read.graph.initializer] == [tensor.name for tensor in expected.graph.initializer]
    for found, wanted in zip(read.graph.initializer, expected.graph.initializer, strict=True):
        assert found.data_type == wanted.data_type
        assert np.array_equal(numpy_helper.to_array(found), numpy_helper.to_array(wanted))


def test_fields_are_those_of_the_message():
    message = onnx.TensorProto(name="n" * 300, dims=[2, 70_000], data_type=1, raw_data=b"x" * 20_000)
    content = memoryview(message.SerializeToString())
    assert b"".join(field for _, _, field in fields(content)) == content
    assert {number: len(inner) for number, inner, _ in fields(content) if number in {8, 9}} == {8: 300, 9: 20_000}
    assert head(9, 20_000) in bytes(content)


@pytest.mark.parametrize("content", [b"\x0a", b"\x0a\x05ab", b"\xff" * 12, b"\x0b", b"\x09abc", b"\x08"])
def test_what_is_cut_off_or_no_message_is_refused(content):
    with pytest.raises(ValueError, match="byte"):
        list(fields(memoryview(content)))


def test_a_file_is_checked_without_its_large_weights_in_memory(file, monkeypatch):
    given = []
    original = onnx.checker.check_model
    monkeypatch.setattr(
        check_module.onnx.checker, "check_model", lambda graph, **more: (given.append(graph), original(graph, **more))
    )
    assert checked(file)["nodes"] == 2
    assert [tensor.name for tensor in given[0].graph.initializer] == ["b", "empty", "scalar"]
    assert [value.name for value in given[0].graph.input] == ["x", "w"]


@pytest.mark.parametrize("shape", [(63, 300), (64, 300, 1, 1)])
def test_a_weight_of_another_shape_is_noticed(tmp_path, shape):
    onnx.save(model(w=np.zeros(shape, "float32")), tmp_path / "m.onnx")
    with pytest.raises(UserError, match="not a valid ONNX graph"):
        checked(tmp_path / "m.onnx")


def test_a_weight_that_lacks_bytes_is_noticed(tmp_path):
    damaged = model()
    damaged.graph.initializer[0].raw_data = damaged.graph.initializer[0].raw_data[:-4]
    (tmp_path / "m.onnx").write_bytes(damaged.SerializeToString())
    with pytest.raises(UserError, match="the weight w has 76796 bytes in place of 76800"):
        checked(tmp_path / "m.onnx")


@pytest.mark.parametrize("length", [10, 1000, 70_000])
def test_a_file_that_is_cut_off_is_no_graph(file, length):
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(UserError, match="not a valid ONNX graph"):
        checked(file)
