"""ONNX export: what is in the file is what was asked for, and it computes what the module computes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from tasks.actions.export_onnx.action import run
from tasks.actions.verify import compare
from tasks.job import Job
from tasks.models.cosyvoice.encoder import upsample
from tasks.models.cosyvoice.folder import load_component
from tasks.runtimes.onnxruntime_.session import open_artifact
from tasks.settings.component import ComponentSpec
from tests.support import small_onnx_models
from tests.support.errors import error_of
from tests.support.exports import Exports
from tests.support.folders import random_folder
from tests.support.golden_cases import Case, golden_case, golden_names
from tests.support.onnx_jobs import (
    EXPORTERS,
    EXPORTERS_AND_PRECISIONS,
    QUICK_EXPORTER,
    encoder_component,
    estimator_component,
    export_job,
    small_component,
    small_export_job,
    verify_job,
)

NAMES = golden_names("cosyvoice2", "est_L")


def outputs(path: Path, inputs: dict[str, Tensor]) -> Tensor:
    return open_artifact(path, device="cpu", threads=1)(inputs)[0]


def estimator_job(folder: Path, *, streaming: bool = False, **settings: Any) -> Job:
    return export_job(estimator_component(options={"streaming": streaming}), folder, **settings)


def recorded_inputs(case: Case) -> dict[str, Tensor]:
    return case.inputs | {"t": case.inputs["t"].expand(2)}


def is_streaming(name: str) -> bool:
    return golden_case("cosyvoice2", name).flags.get("streaming", False)


# The first version of the file format that has an opset, as onnx/docs/Versioning.md lists them.
IR_VERSIONS = {15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}


@pytest.mark.parametrize(
    ("exporter", "name"),
    [
        *(("torchscript", name) for name in NAMES),
        *(pytest.param("dynamo", name, marks=[pytest.mark.slow] * is_streaming(name)) for name in NAMES),
    ],
)
def test_exported_estimator_reproduces_the_recorded_case(exports: Exports, tmp_path, exporter, name):
    case = golden_case("cosyvoice2", name)
    path = exports(estimator_job(tmp_path, streaming=is_streaming(name), exporter=exporter))
    assert (outputs(path, recorded_inputs(case)) - case.outputs["y"]).abs().max() <= 2e-4


@pytest.mark.parametrize(
    ("exporter", "opset"),
    [
        ("dynamo", 18),
        pytest.param("dynamo", 20, marks=pytest.mark.slow),
        ("dynamo", 23),
        ("torchscript", 15),
        ("torchscript", 17),
        ("torchscript", 20),
    ],
)
def test_file_has_the_opset_asked_for(exports: Exports, tmp_path, exporter, opset):
    model = onnx.load(exports(small_export_job("Plain", tmp_path, exporter=exporter, opset=opset)))
    assert [entry.version for entry in model.opset_import if not entry.domain] == [opset]
    assert model.ir_version == IR_VERSIONS[opset]  # a runtime that knows the opset need not know a later one


@EXPORTERS
def test_file_has_the_original_names_and_the_declared_axis(exports: Exports, tmp_path, exporter):
    model = onnx.load(exports(estimator_job(tmp_path, exporter=exporter)))
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


@EXPORTERS
def test_axis_takes_the_name_that_the_component_gives_it(exports: Exports, tmp_path, exporter):
    component = small_component(
        "Plain",
        inputs={"x": {"shape": [2, 8, "seq_len"]}},
        outputs={"y": [2, 8, "seq_len"]},
        axes={"seq_len": {"min": 4, "opt": 20, "max": 40}},
    )
    facts = exports.facts(small_export_job("Plain", tmp_path, component=component, exporter=exporter))
    assert facts["inputs"] == {"x": [2, 8, "seq_len"]}
    assert facts["outputs"] == {"y": [2, 8, "seq_len"]}


@QUICK_EXPORTER
def test_dynamic_batch_runs_any_even_batch(exports: Exports, tmp_path, exporter):
    axes = {"batch": {"min": 2, "opt": 4, "max": 16, "dynamic": False}, "frames": {"min": 4, "opt": 50, "max": 100}}
    job = export_job(estimator_component(axes=axes), tmp_path, exporter=exporter, dynamic_batch=True)
    assert exports.facts(job)["inputs"]["t"] == ["batch"]
    pair = recorded_inputs(golden_case("cosyvoice2", NAMES[0]))
    six = {name: value.repeat(3, *[1] * (value.dim() - 1)) for name, value in pair.items()}
    found = outputs(exports(job), six)
    assert (found - outputs(exports(job), pair).repeat(3, 1, 1)).abs().max() <= 1e-5


@EXPORTERS
def test_small_graph_with_a_dynamic_batch_runs_any_batch(exports: Exports, tmp_path, exporter):
    axes = {"batch": {"min": 2, "opt": 4, "max": 16, "dynamic": False}, "frames": {"min": 4, "opt": 20, "max": 40}}
    component = small_component("Masked", axes=axes)
    path = exports(small_export_job("Masked", tmp_path, component=component, exporter=exporter, dynamic_batch=True))
    for batch in (2, 7):
        x = torch.randn(batch, 8, 11)
        assert (outputs(path, {"x": x}) - small_onnx_models.Masked()(x)).abs().max() <= 1e-5


@EXPORTERS
def test_two_exports_give_the_same_bytes(exports: Exports, tmp_path, exporter):
    job = small_export_job("Masked", tmp_path, precision="fp16", exporter=exporter)
    run(job)
    assert job.outputs["onnx"].read_bytes() == exports(job).read_bytes()


@pytest.mark.slow
@EXPORTERS
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_two_exports_of_the_estimator_give_the_same_bytes(exports: Exports, tmp_path, exporter, precision):
    job = estimator_job(tmp_path, precision=precision, exporter=exporter)
    run(job)
    assert job.outputs["onnx"].read_bytes() == exports(job).read_bytes()


@EXPORTERS
def test_file_states_where_it_comes_from_and_neither_times_nor_paths(exports: Exports, tmp_path, exporter):
    path = exports(estimator_job(tmp_path, exporter=exporter))
    about = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert about["voxkiln.component"] == "flow.decoder.estimator"
    assert about["voxkiln.exporter"] == exporter
    assert len(about["voxkiln.weights_sha256"]) == 16
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()


@EXPORTERS
def test_file_names_the_module_of_its_operations(exports: Exports, tmp_path, exporter):
    job = estimator_job(tmp_path, exporter=exporter)
    spec = ComponentSpec.from_params(job.params["component"])
    module = load_component(spec, config=job.inputs["config"], weights=job.inputs["weights"])
    nodes = onnx.load(exports(job)).graph.node
    listed = [entry.value for node in nodes for entry in node.metadata_props if entry.key == "voxkiln.module"]
    assert len(listed) > len(nodes) / 2
    assert set(listed) <= {name for name, _ in module.named_modules()}


@QUICK_EXPORTER
def test_simplified_graph_has_fewer_nodes_and_computes_the_same(exports: Exports, tmp_path, exporter):
    simple, raw = (exports(estimator_job(tmp_path, exporter=exporter, simplify=simplify)) for simplify in (True, False))
    assert len(onnx.load(simple).graph.node) < len(onnx.load(raw).graph.node)
    inputs = recorded_inputs(golden_case("cosyvoice2", "est_L23_full_full"))
    assert (outputs(simple, inputs) - outputs(raw, inputs)).abs().max() <= 1e-5


def test_weights_beside_the_file_are_referred_to_by_name(tmp_path):
    job = small_export_job("Plain", tmp_path, exporter="torchscript", external_data="always")
    facts = run(job)
    path = job.outputs["onnx"]
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, f"{path.name}.data"]
    assert facts["external_data"]
    moved = path.parent.rename(tmp_path / "elsewhere")
    onnxruntime.InferenceSession(moved / path.name, providers=["CPUExecutionProvider"])


def test_weights_beyond_the_limit_of_one_file_go_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.actions.export_onnx.write.EMBEDDED_LIMIT", 100)
    assert run(small_export_job("Plain", tmp_path, exporter="torchscript"))["external_data"]


@pytest.mark.parametrize("streaming", [False, True])
def test_the_file_says_whether_it_streams(exports: Exports, tmp_path, streaming):
    path = exports(estimator_job(tmp_path, streaming=streaming, exporter="torchscript"))
    notes = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert notes["voxkiln.options"] == json.dumps({"streaming": streaming})


@EXPORTERS_AND_PRECISIONS
def test_encoder_with_lengths_and_two_outputs_is_exported_and_verified(tmp_path, monkeypatch, exporter, precision):
    """It has two layers instead of six, with random weights."""
    monkeypatch.setattr(upsample, "UP_LAYERS", 1)
    folder = random_folder("cosyvoice2", tmp_path, {"num_blocks: 2": "num_blocks: 1"}, parts=["flow"])
    sources = {"config": folder / "cosyvoice2.yaml", "weights": folder / "flow.pt"}
    exported_and_verified(tmp_path, exporter=exporter, precision=precision, sources=sources)


@pytest.mark.slow
@EXPORTERS
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_recorded_encoder_is_exported_and_verified(tmp_path, exporter, precision):
    exported_and_verified(tmp_path, exporter=exporter, precision=precision, sources={})


def exported_and_verified(folder: Path, *, exporter: str, precision: str, sources: dict[str, Path]) -> None:
    component = encoder_component()
    export = export_job(component, folder, precision=precision, exporter=exporter)
    run(replace(export, inputs=export.inputs | sources))
    verify = verify_job(component, export.outputs["onnx"], precision=precision, trials=10)
    assert compare.run(replace(verify, inputs=verify.inputs | sources))["trials"] == 10


@EXPORTERS_AND_PRECISIONS
def test_an_input_that_nothing_reads_is_in_the_file_nevertheless(exports: Exports, tmp_path, exporter, precision):
    inputs = {name: {"shape": ["batch", 8, "frames"]} for name in ("unread", "x")}
    component = small_component("IgnoresInput", inputs=inputs)
    job = small_export_job("IgnoresInput", tmp_path, component=component, precision=precision, exporter=exporter)
    assert [value.name for value in onnx.load(exports(job)).graph.input] == ["unread", "x"]


def test_declared_shapes_that_the_module_does_not_take_are_named(tmp_path):
    component = small_component("Plain", inputs={"x": {"shape": ["batch", 9, "frames"]}})
    error = error_of(run, small_export_job("Plain", tmp_path, component=component))
    assert (error.where, "does not take inputs of the declared shapes" in error.what) == ("small.Plain", True)
    assert error.value.startswith("x [2, 9, 13]; RuntimeError: ")


def test_module_that_reads_values_is_refused_with_the_reason(tmp_path):
    error = error_of(run, small_export_job("FixedLength", tmp_path, exporter="dynamo"))
    assert error.where == "small.FixedLength"
    assert "onnx.exporter=torchscript" in error.remedy
