"""ONNX export in fp16 and bf16: what is kept in fp32, what is clamped, and what is refused."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from tasks.actions.export_onnx.action import run
from tasks.runtimes.onnxruntime_.session import open_artifact
from tests.support import small_onnx_models
from tests.support.errors import error_of
from tests.support.exports import Exports
from tests.support.golden_cases import golden_case
from tests.support.onnx_jobs import QUICK_EXPORTER, estimator_component, export_job, small_export_job

FEW = ["LayerNormalization", "Softmax", "Mish", "Sin", "Cos"]


def outputs(path: Path, inputs: dict[str, Tensor]) -> Tensor:
    return open_artifact(path, device="cpu", threads=1)(inputs)[0]


def small_export(exports: Exports, name: str, folder: Path, **settings: Any) -> tuple[nn.Module, Path]:
    """A module, and its file."""
    return getattr(small_onnx_models, name)(), exports(small_export_job(name, folder, **settings))


def element_types(path: Path) -> dict[str, int]:
    """Number format of every tensor inside a file."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    return {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}


@QUICK_EXPORTER
def test_half_precision_file_takes_and_returns_half_and_keeps_what_was_named(exports: Exports, tmp_path, exporter):
    path = exports(export_job(estimator_component(), tmp_path, precision="fp16", exporter=exporter, keep_fp32=FEW))
    model, types = onnx.load(path), element_types(path)
    ends = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert set(ends) == {onnx.TensorProto.FLOAT16}
    for node in model.graph.node:
        wanted = onnx.TensorProto.FLOAT if node.op_type in {"Softmax", "LayerNormalization", "Sin"} else None
        if node.op_type in {"Conv", "MatMul", "Gemm"}:
            wanted = onnx.TensorProto.FLOAT16
        if wanted and node.output[0] in types:
            assert types[node.output[0]] == wanted, node.name


@QUICK_EXPORTER
@pytest.mark.parametrize("keep", [[], FEW], ids=["nothing", "few"])
def test_half_precision_estimator_is_near_the_recorded_case(exports: Exports, tmp_path, exporter, keep):
    case = golden_case("cosyvoice2", "est_L30_tail0_full")
    inputs = {name: value.half() for name, value in (case.inputs | {"t": case.inputs["t"].expand(2)}).items()}
    job = export_job(estimator_component(), tmp_path, precision="fp16", exporter=exporter, keep_fp32=keep)
    assert (outputs(exports(job), inputs).float() - case.outputs["y"]).abs().max() <= 3e-2


@QUICK_EXPORTER
def test_values_beyond_half_stay_in_fp32_although_onnxruntime_hides_them_on_a_cpu(exports: Exports, tmp_path, exporter):
    module, path = small_export(exports, "Overflowing", tmp_path, precision="fp16", exporter=exporter, keep_fp32=[])
    x = torch.randn(2, 8, 9).half()
    assert (outputs(path, {"x": x}).float() - module(x.float())).abs().max() <= 1e-2
    types = element_types(path)
    in_fp32 = [node for node in onnx.load(path).graph.node if types.get(node.output[0]) == onnx.TensorProto.FLOAT]
    assert [node.op_type for node in in_fp32] == ["Cast", "Mul", "Div"]


@QUICK_EXPORTER
def test_an_output_beyond_half_is_refused(tmp_path, exporter):
    job = small_export_job("OverflowingOutput", tmp_path, precision="fp16", exporter=exporter, keep_fp32=[])
    error = error_of(run, job)
    assert "fp16" in error.what
    assert "precision=fp32" in error.remedy


@pytest.mark.parametrize(
    ("exporter", "keep"),
    [
        ("torchscript", ["Mul", "Div"]),
        ("torchscript", ["*Mul*", "*Div*"]),
        pytest.param("dynamo", ["Mul", "Div"], marks=pytest.mark.slow),
        pytest.param("dynamo", ["node_mul*", "node_div*"], marks=pytest.mark.slow),
    ],
)
def test_nodes_kept_by_type_or_by_name_make_the_overflowing_graph_pass(exports: Exports, tmp_path, exporter, keep):
    module, path = small_export(exports, "Overflowing", tmp_path, precision="fp16", exporter=exporter, keep_fp32=keep)
    x = torch.randn(2, 8, 9).half()
    assert (outputs(path, {"x": x}).float() - module(x.float())).abs().max() <= 1e-2


@QUICK_EXPORTER
def test_misspelt_entry_of_what_to_keep_is_refused(tmp_path, exporter):
    job = small_export_job("Plain", tmp_path, precision="fp16", exporter=exporter, keep_fp32=["LayerNorm"])
    error = error_of(run, job)
    assert (error.where, error.value) == ("onnx.keep_fp32", "LayerNorm")


@QUICK_EXPORTER
def test_constant_beyond_half_names_the_node_to_keep(tmp_path, exporter):
    job = small_export_job("BeyondHalf", tmp_path, precision="fp16", exporter=exporter, keep_fp32=["Div"])
    error = error_of(run, job)
    assert error.value == pytest.approx(1e5)
    operator, node = error.where.split(",")[0].split()
    assert operator == "Mul"
    assert f"onnx.keep_fp32=[...,'{node}']" in error.remedy


@QUICK_EXPORTER
def test_mask_constants_are_clamped_and_attention_stays_right(exports: Exports, tmp_path, exporter):
    module, path = small_export(exports, "Masked", tmp_path, precision="fp16", exporter=exporter)
    x = torch.randn(2, 8, 21).half()
    assert (outputs(path, {"x": x}).float() - module(x.float())).abs().max() <= 2e-2


@pytest.mark.parametrize(
    ("exporter", "keep"),
    [
        ("torchscript", []),
        ("torchscript", ["Softmax"]),
        ("dynamo", []),
        pytest.param("dynamo", ["Softmax"], marks=pytest.mark.slow),
    ],
)
def test_masks_beyond_bf16_stay_finite_and_attention_stays_right(exports: Exports, tmp_path, exporter, keep):
    """Rounded to bf16, fp32's lowest number would be minus infinity."""
    module, path = small_export(exports, "Forbidden", tmp_path, precision="bf16", exporter=exporter, keep_fp32=keep)
    x = torch.randn(2, 8, 21).bfloat16()
    assert (outputs(path, {"x": x}).float() - module(x.float())).abs().max() <= 5e-2


@QUICK_EXPORTER
def test_nothing_overflows_in_bf16(exports: Exports, tmp_path, exporter):
    settings = {"precision": "bf16", "exporter": exporter, "keep_fp32": []}
    module, path = small_export(exports, "OverflowingOutput", tmp_path, **settings)
    x = torch.randn(2, 8, 9).bfloat16()
    assert torch.allclose(outputs(path, {"x": x}).float(), module(x.float()), rtol=2e-2)
    assert onnx.TensorProto.FLOAT not in element_types(path).values()


@QUICK_EXPORTER
def test_nan_in_bf16_names_the_node_that_makes_it(tmp_path, exporter):
    job = small_export_job("LogOfNegative", tmp_path, precision="bf16", exporter=exporter, keep_fp32=[])
    error = error_of(run, job)
    assert "bf16" in error.what
    assert error.where.startswith("Log ")


@QUICK_EXPORTER
def test_angle_of_a_kept_sine_is_computed_in_fp32(exports: Exports, tmp_path, exporter):
    module, path = small_export(exports, "Clock", tmp_path, precision="fp16", exporter=exporter, keep_fp32=["Sin"])
    x = torch.randn(2, 8, 21).half()
    assert (outputs(path, {"x": x}).float() - module(x.float())).abs().max() <= 2e-3


@pytest.mark.parametrize(
    ("exporter", "precision", "dtype"),
    [
        ("torchscript", "fp16", torch.float16),
        ("torchscript", "bf16", torch.bfloat16),
        ("dynamo", "fp16", torch.float16),
        pytest.param("dynamo", "bf16", torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_positions_are_counted_in_fp32(exports: Exports, tmp_path, exporter, precision, dtype):
    """2999 is a number of neither format."""
    module, path = small_export(exports, "Positions", tmp_path, precision=precision, exporter=exporter)
    x = torch.randn(2, 8, 2999).to(dtype)
    assert (outputs(path, {"x": x}).float() - module(x.float())).abs().max() <= 32 * torch.finfo(dtype).eps
