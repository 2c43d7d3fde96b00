"""ONNX export: what is in the file is what was asked for, and it computes what the module computes."""

import json
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tasks.actions.export_onnx.action import run
from tasks.actions.verify import compare
from tasks.errors import UserError
from tasks.models.cosyvoice.folder import load_component
from tasks.runtimes.onnxruntime_.session import open_artifact
from tasks.settings.component import ComponentSpec
from tests.support import small_onnx_models
from tests.support.golden_cases import golden_case, golden_names
from tests.support.onnx_jobs import ENCODER, estimator_component, export_job, saved_weights, small_component, verify_job

EXPORTERS = pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
CASES = golden_names("cosyvoice2", "est_")


def outputs(path: Path, inputs: dict[str, Tensor]) -> Tensor:
    return open_artifact(path, device="cpu", threads=1)(inputs)[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The recorded estimator's file for an exporter, a streaming option and settings; each made once."""
    made: dict[Any, Path] = {}

    def export(*, streaming: bool = False, precision: str = "fp32", **settings: Any) -> Path:
        key = (streaming, precision, *sorted(settings.items()))
        if key not in made:
            component = estimator_component(options={"streaming": streaming})
            job = export_job(component, tmp_path_factory.mktemp("onnx"), precision=precision, **settings)
            run(job)
            made[key] = job.outputs["onnx"]
        return made[key]

    return export


@EXPORTERS
@pytest.mark.parametrize("name", CASES)
def test_exported_estimator_reproduces_the_recorded_case(exported, exporter, name):
    case = golden_case("cosyvoice2", name)
    batch = case.inputs["x"].size(0)
    path = exported(streaming=case.flags.get("streaming", False), exporter=exporter, dynamic_batch=batch != 2)
    inputs = case.inputs | {"t": case.inputs["t"].expand(batch)}
    assert (outputs(path, inputs) - case.outputs["y"]).abs().max() <= 2e-4


@pytest.mark.parametrize(
    ("exporter", "opset"),
    [("dynamo", 18), ("dynamo", 20), ("dynamo", 23), ("torchscript", 15), ("torchscript", 17), ("torchscript", 20)],
)
def test_file_has_the_opset_asked_for(exported, exporter, opset):
    model = onnx.load(exported(exporter=exporter, opset=opset))
    assert [entry.version for entry in model.opset_import if not entry.domain] == [opset]


@EXPORTERS
def test_file_has_the_published_names_and_the_declared_axis(exported, exporter):
    model = onnx.load(exported(exporter=exporter))
    dims = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert list(dims.items()) == [
        ("x", [2, 80, "frames"]),
        ("mask", [2, 1, "frames"]),
        ("mu", [2, 80, "frames"]),
        ("t", [2]),
        ("spks", [2, 80]),
        ("cond", [2, 80, "frames"]),
        ("estimator_out", [2, 80, "frames"]),
    ]


def test_axis_takes_the_name_that_the_component_gives_it(tmp_path):
    component = small_component(
        "Plain",
        inputs={"x": {"shape": [2, 8, "seq_len"]}},
        outputs={"y": [2, 8, "seq_len"]},
        axes={"seq_len": {"min": 4, "opt": 20, "max": 40}},
    )
    facts = run(export_job(component, tmp_path, weights=saved_weights(small_onnx_models.Plain(), tmp_path)))
    assert facts["inputs"] == {"x": [2, 8, "seq_len"]}
    assert facts["outputs"] == {"y": [2, 8, "seq_len"]}


@EXPORTERS
def test_dynamic_batch_runs_any_even_batch(tmp_path, exporter):
    axes = {"batch": {"min": 2, "opt": 4, "max": 16, "dynamic": False}, "frames": {"min": 4, "opt": 50, "max": 100}}
    job = export_job(estimator_component(axes=axes), tmp_path, exporter=exporter, dynamic_batch=True)
    assert run(job)["inputs"]["t"] == ["batch"]
    case = golden_case("cosyvoice2", CASES[0])
    pair = {name: value.expand(2, *value.shape[1:]) for name, value in case.inputs.items() if value.dim()}
    pair.setdefault("t", case.inputs["t"].expand(2))
    six = {name: value.repeat(3, *[1] * (value.dim() - 1)) for name, value in pair.items()}
    found = outputs(job.outputs["onnx"], six)
    assert (found - outputs(job.outputs["onnx"], pair).repeat(3, 1, 1)).abs().max() <= 1e-5


def test_batch_of_one_size_cannot_be_dynamic(tmp_path):
    with pytest.raises(UserError, match=r"model\.axes\.batch.*one size only"):
        run(export_job(estimator_component(), tmp_path, dynamic_batch=True))


@EXPORTERS
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_two_exports_give_the_same_bytes(exported, tmp_path, exporter, precision):
    job = export_job(
        estimator_component(options={"streaming": False}), tmp_path, precision=precision, exporter=exporter
    )
    run(job)
    assert job.outputs["onnx"].read_bytes() == exported(precision=precision, exporter=exporter).read_bytes()


def test_file_tells_where_it_comes_from_and_neither_times_nor_paths(exported, tmp_path):
    path = exported(exporter="dynamo")
    about = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert about["voxkiln.component"] == "flow.decoder.estimator"
    assert about["voxkiln.exporter"] == "dynamo"
    assert len(about["voxkiln.weights_sha256"]) == 16
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()


@EXPORTERS
def test_file_tells_the_module_of_its_operations(exported, exporter):
    job = export_job(estimator_component(), Path())
    spec = ComponentSpec.from_params(estimator_component())
    module = load_component(spec, config=job.inputs["config"], weights=job.inputs["weights"])
    nodes = onnx.load(exported(exporter=exporter)).graph.node
    told = [entry.value for node in nodes for entry in node.metadata_props if entry.key == "voxkiln.module"]
    assert len(told) > len(nodes) / 2
    assert set(told) <= {name for name, _ in module.named_modules()}


@EXPORTERS
def test_simplified_graph_has_fewer_nodes_and_computes_the_same(exported, exporter):
    simple, raw = exported(exporter=exporter), exported(exporter=exporter, simplify=False)
    assert len(onnx.load(simple).graph.node) < len(onnx.load(raw).graph.node)
    case = golden_case("cosyvoice2", "est_L23_full" if "est_L23_full" in CASES else CASES[1])
    inputs = case.inputs | {"t": case.inputs["t"].expand(2)}
    assert (outputs(simple, inputs) - outputs(raw, inputs)).abs().max() <= 1e-5


def test_weights_beside_the_file_are_referred_to_by_name(tmp_path):
    job = export_job(estimator_component(), tmp_path, external_data="always")
    facts = run(job)
    path = job.outputs["onnx"]
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, f"{path.name}.data"]
    assert facts["external_data"]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in (path, path.with_name(f"{path.name}.data")):
        file.rename(moved / file.name)
    onnxruntime.InferenceSession(moved / path.name, providers=["CPUExecutionProvider"])


def test_weights_beyond_the_limit_of_one_file_go_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.actions.export_onnx.write.EMBEDDED_LIMIT", 1000)
    assert run(export_job(estimator_component(), tmp_path, exporter="torchscript"))["external_data"]


def test_half_precision_file_takes_and_returns_half_and_keeps_what_was_named(exported):
    model = onnx.shape_inference.infer_shapes(onnx.load(exported(precision="fp16")), strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    ends = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert set(ends) == {onnx.TensorProto.FLOAT16}
    for node in model.graph.node:
        wanted = onnx.TensorProto.FLOAT if node.op_type in {"Softmax", "LayerNormalization", "Sin"} else None
        if node.op_type in {"Conv", "MatMul", "Gemm"}:
            wanted = onnx.TensorProto.FLOAT16
        if wanted and node.output[0] in types:
            assert types[node.output[0]] == wanted, node.name


@pytest.mark.parametrize("keep", [[], ["LayerNormalization", "Softmax", "Mish", "Sin", "Cos"]])
def test_half_precision_estimator_is_near_the_recorded_case(exported, keep):
    case = golden_case("cosyvoice2", "est_L30_tail0_full")
    inputs = {name: value.half() for name, value in (case.inputs | {"t": case.inputs["t"].expand(2)}).items()}
    path = exported(precision="fp16", keep_fp32=tuple(keep))
    assert (outputs(path, inputs).float() - case.outputs["y"]).abs().max() <= 3e-2


def element_types(path: Path) -> dict[str, int]:
    """Number format of every tensor inside a file."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    return {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}


def small_export(name: str, folder: Path, **settings: Any) -> tuple[nn.Module, Path]:
    module: nn.Module = getattr(small_onnx_models, name)()
    job = export_job(small_component(name), folder, weights=saved_weights(module, folder), **settings)
    run(job)
    return module, job.outputs["onnx"]


def test_values_beyond_half_stay_in_fp32_although_onnxruntime_hides_them_on_a_cpu(tmp_path):
    module, path = small_export("Overflowing", tmp_path, precision="fp16", keep_fp32=[])
    x = torch.randn(2, 8, 9).half()
    assert (outputs(path, {"x": x}).float() - module(x.float())).abs().max() <= 1e-2
    types = element_types(path)
    in_fp32 = [node.name for node in onnx.load(path).graph.node if types.get(node.output[0]) == onnx.TensorProto.FLOAT]
    assert sum("mul" in name or "div" in name for name in in_fp32) >= 3


def test_an_output_beyond_half_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"makes NaN or Inf in fp16.*precision=fp32"):
        small_export("OverflowingOutput", tmp_path, precision="fp16", keep_fp32=[])


@pytest.mark.parametrize("streaming", [False, True])
def test_the_file_says_whether_it_streams(exported, streaming):
    notes = {entry.key: entry.value for entry in onnx.load(exported(streaming=streaming)).metadata_props}
    assert notes["voxkiln.options"] == json.dumps({"streaming": streaming})


@pytest.mark.parametrize("keep", [["Mul", "Div"], ["node_mul*", "node_div*"]])
def test_nodes_kept_by_type_or_by_name_make_the_overflowing_graph_pass(tmp_path, keep):
    module, path = small_export("Overflowing", tmp_path, precision="fp16", keep_fp32=keep)
    x = torch.randn(2, 8, 9).half()
    assert (outputs(path, {"x": x}).float() - module(x.float())).abs().max() <= 1e-2


def test_misspelt_entry_of_what_to_keep_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"onnx\.keep_fp32.*LayerNorm\b"):
        small_export("Plain", tmp_path, precision="fp16", keep_fp32=["LayerNorm"])


def test_constant_beyond_half_names_the_node_to_keep(tmp_path):
    with pytest.raises(UserError, match=r"beyond fp16's largest number.*onnx\.keep_fp32"):
        small_export("BeyondHalf", tmp_path, precision="fp16", keep_fp32=["Div"])


def test_mask_constants_are_clamped_and_attention_stays_right(tmp_path):
    module, path = small_export("Masked", tmp_path, precision="fp16")
    x = torch.randn(2, 8, 21).half()
    assert (outputs(path, {"x": x}).float() - module(x.float())).abs().max() <= 2e-2


@EXPORTERS
@pytest.mark.parametrize("keep", [[], ["Softmax"]])
def test_masks_beyond_bf16_stay_finite_and_attention_stays_right(tmp_path, exporter, keep):
    """Rounded to bf16, fp32's lowest number would be minus infinity."""
    module, path = small_export("Forbidden", tmp_path, precision="bf16", exporter=exporter, keep_fp32=keep)
    x = torch.randn(2, 8, 21).bfloat16()
    assert (outputs(path, {"x": x}).float() - module(x.float())).abs().max() <= 5e-2


def test_nothing_overflows_in_bf16(tmp_path):
    module, path = small_export("OverflowingOutput", tmp_path, precision="bf16", keep_fp32=[])
    x = torch.randn(2, 8, 9).bfloat16()
    assert torch.allclose(outputs(path, {"x": x}).float(), module(x.float()), rtol=2e-2)
    assert onnx.TensorProto.FLOAT not in element_types(path).values()


def test_nan_in_bf16_names_the_node_that_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"makes NaN or Inf in bf16.*Log"):
        small_export("LogOfNegative", tmp_path, precision="bf16", keep_fp32=[])


def test_angle_of_a_kept_sine_is_computed_in_fp32(tmp_path):
    module, path = small_export("Clock", tmp_path, precision="fp16", keep_fp32=["Sin"])
    x = torch.randn(2, 8, 21).half()
    assert (outputs(path, {"x": x}).float() - module(x.float())).abs().max() <= 2e-3


@EXPORTERS
@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_positions_are_counted_in_fp32(tmp_path, exporter, precision, dtype):
    """2999 is a number of neither format."""
    module, path = small_export("Positions", tmp_path, precision=precision, exporter=exporter)
    x = torch.randn(2, 8, 2999).to(dtype)
    assert (outputs(path, {"x": x}).float() - module(x.float())).abs().max() <= 32 * torch.finfo(dtype).eps


@EXPORTERS
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_encoder_with_lengths_and_two_outputs_is_exported_and_verified(tmp_path, exporter, precision):
    job = export_job(ENCODER, tmp_path, precision=precision, exporter=exporter)
    run(job)
    facts = compare.run(verify_job(ENCODER, job.outputs["onnx"], precision=precision, trials=10))
    assert facts["trials"] == 10


@EXPORTERS
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_input_that_nothing_reads_is_in_the_file_nevertheless(tmp_path, exporter, precision):
    module = small_onnx_models.IgnoresInput()
    inputs = {name: {"shape": ["batch", 8, "frames"]} for name in ("unread", "x")}
    component, weights = small_component("IgnoresInput", inputs=inputs), saved_weights(module, tmp_path)
    job = export_job(component, tmp_path, weights=weights, precision=precision, exporter=exporter)
    run(job)
    assert [value.name for value in onnx.load(job.outputs["onnx"]).graph.input] == ["unread", "x"]


def test_module_that_reads_values_is_refused_with_the_reason(tmp_path):
    with pytest.raises(UserError, match=r"small\.FixedLength.*cannot export"):
        small_export("FixedLength", tmp_path)
