"""Preflight finds, without a GPU, what would make a long build fail or a plan useless."""

import io
import json
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from tasks import progress
from tasks.actions.build_plan.onnx_interface import describe_interface, load_graph
from tasks.actions.preflight.action import run
from tasks.actions.preflight.corners import run_corners
from tasks.actions.preflight.memory import estimate_profiles
from tasks.actions.preflight.operator_table import load_table
from tasks.actions.preflight.operators import check_operators, origin
from tasks.job import Job
from tasks.settings.component import ComponentSpec, InputSpec
from tasks.settings.shape_profiles import complete_profiles
from tests.support.errors import error_of
from tests.support.exports import Exports
from tests.support.onnx_jobs import EXPORTERS, small_export_job
from tests.support.onnx_samples import CHANNELS, component, small_estimator

SPEC = ComponentSpec.from_params(component())
ORIGINAL = {"profile": {"frames": [4, 500, 3000]}}


def _job(folder: Path, model: onnx.ModelProto, *, declared=None, precision="fp32", **settings) -> Job:
    onnx.save(model, folder / "small.onnx")
    return Job(
        step="preflight:demo/small",
        action="tasks.actions.preflight.action:run",
        inputs={"onnx": folder / "small.onnx"},
        outputs={"report": folder / "report.json"},
        params={"component": declared or component(), "precision": {"name": precision}, "tensorrt": settings},
    )


def _refused(job: Job) -> str:
    """The value of the error."""
    error = error_of(run, job)
    assert not job.outputs["report"].exists()
    return error.value


def test_a_sound_graph_passes_at_the_original_profile(tmp_path):
    job = _job(tmp_path, small_estimator(), **ORIGINAL)
    facts = run(job)
    assert [corner["corner"] for corner in facts["corners"]] == ["min", "opt", "max"]
    assert {corner["result"] for corner in facts["corners"]} == {"ran"}
    assert facts["warnings"] == []
    assert json.loads(job.outputs["report"].read_text())["corners"] == facts["corners"]


def test_an_fp16_graph_is_run_in_fp16(tmp_path):
    assert run(_job(tmp_path, small_estimator(precision="fp16"), precision="fp16"))["corners"][0]["result"] == "ran"


def test_every_profile_has_its_corners_and_equal_ones_run_once(tmp_path):
    facts = run(_job(tmp_path, small_estimator(), profiles=[{"frames": [4, 20, 50]}, {"frames": [50, 80, 300]}]))
    assert [(c["profile"], c["frames"]) for c in facts["corners"]] == [(0, 4), (0, 20), (0, 50), (1, 80), (1, 300)]


def test_a_dynamic_batch_is_run_at_its_sizes(tmp_path):
    job = _job(tmp_path, small_estimator(batch="batch"), declared=component(batch_max=8), profile={"batch": [2, 4, 8]})
    assert [corner["batch"] for corner in run(job)["corners"]] == [2, 4, 8]


def test_a_graph_that_overflows_is_refused_with_the_corner(tmp_path):
    model = small_estimator(precision="fp16", operator="Exp", scale=30.0)
    value = _refused(_job(tmp_path, model, precision="fp16"))
    assert "profile 0 at min " in value
    assert "NaN or infinite" in value


def test_a_graph_that_does_not_run_at_a_corner_is_refused(tmp_path):
    model = small_estimator()
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.ones((CHANNELS, CHANNELS, 9), dtype=np.float32), "w")
    )
    del model.graph.node[0].attribute[:]
    model.graph.node[0].attribute.append(helper.make_attribute("kernel_shape", [9]))
    assert "profile 0 at min (frames=4, batch=2)" in _refused(_job(tmp_path, model))


def test_an_output_of_another_shape_than_declared_is_refused(tmp_path):
    declared = component()
    declared["outputs"]["out"] = ["batch", CHANNELS + 1, "frames"]
    assert "[2, 4, 4] instead of [2, 5, 4]" in _refused(_job(tmp_path, small_estimator(), declared=declared))


def test_a_corner_too_large_for_the_memory_is_left_out_and_said_so(tmp_path):
    path = tmp_path / "small.onnx"
    onnx.save(small_estimator(), path)
    model, profiles = load_graph(path), complete_profiles(SPEC.axes, ORIGINAL)
    memory = estimate_profiles(model, SPEC, profiles)
    corners = run_corners(
        path, describe_interface(model), SPEC, profiles, memory=memory, threads=1,
        track=lambda items, **options: items, available=memory[0].corners["max"].peak,
    )  # fmt: skip
    assert [bool(corner.skipped) for corner in corners] == [False, False, True]
    assert "not run: would take about" in corners[2].skipped


def test_operators_that_the_parser_does_not_read_are_named_with_their_module(tmp_path):
    assert "Det is not supported by TensorRT 10.1" in _refused(_job(tmp_path, small_estimator(operator="Det")))
    listed = check_operators(small_estimator(operator="STFT"))
    assert listed.problems == ["STFT is not supported by TensorRT 10.1 (in mid.act)"]


def test_an_operator_of_a_foreign_domain_needs_a_plugin():
    model = small_estimator(operator="FusedThing")
    model.graph.node[1].domain = "com.acme"
    assert check_operators(model).problems == [
        "com.acme::FusedThing is not a standard operator and needs a plugin (in mid.act)"
    ]


def test_operators_inside_branches_are_looked_at():
    inner = helper.make_graph([helper.make_node("Unique", ["x"], ["u"], name="/deep/Unique")], "then", [], [])
    node = helper.make_node("If", ["c"], ["y"], name="/If", then_branch=inner, else_branch=inner)
    model = helper.make_model(helper.make_graph([node], "g", [], []), opset_imports=[helper.make_opsetid("", 18)])
    assert check_operators(model).problems == ["Unique is not supported by TensorRT 10.1 (in deep)"]


def test_the_exporters_note_of_the_module_is_used():
    class Inner(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x)

    class Outer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = Inner()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(x)

    program = torch.onnx.export(Outer(), (torch.zeros(2, 3),), dynamo=True, verbose=False)
    (node,) = program.model_proto.graph.node
    assert origin(node) == "act"


@EXPORTERS
def test_an_exported_file_still_names_the_module_of_an_operator(exports: Exports, tmp_path, exporter):
    job = small_export_job("Unreadable", tmp_path, exporter=exporter)
    assert check_operators(load_graph(exports(job))).problems == [
        "BitwiseAnd is not supported by TensorRT 10.1 (in blocks.0.1)"
    ]


def test_a_format_the_operator_is_not_read_for_is_a_warning():
    model = small_estimator(operator="GridSample")
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.BFLOAT16, [2, 4, 4]))
    assert check_operators(model).warnings == [
        "GridSample produces BF16; TensorRT 10.1 supports only FP16, FP32 (in mid.act)"
    ]


def test_an_opset_newer_than_the_table_is_a_warning():
    (warning,) = check_operators(small_estimator(opset=23)).warnings
    assert "opset 23" in warning
    assert "9 to 20" in warning


def test_warnings_are_shown_where_the_step_shows_its_progress(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.progress._output", io.StringIO())
    run(_job(tmp_path, small_estimator(opset=21)))
    assert "warning: opset 21 " in progress.output().getvalue()


def test_the_operator_table_has_the_original_facts():
    table = json.loads((Path(__file__).parents[1] / "golden/tensorrt_api/onnx_operators.json").read_text())["operators"]
    operators = load_table("10.1")
    assert {name for name, row in table.items() if row["supported"]} == operators.formats.keys()
    for name, row in table.items():
        if row["supported"]:
            assert {kind.replace("INF64", "INT64") for kind in row["types"]} == operators.formats[name]


def test_memory_grows_with_the_sizes_and_names_the_largest_tensor():
    model = small_estimator()
    (memory,) = estimate_profiles(model, SPEC, [{"frames": (4, 50, 300), "batch": (2, 2, 2)}])
    tensor = 2 * CHANNELS * 4  # bytes per frame of one activation
    assert memory.corners["max"].peak == 2 * tensor * 300 + 0
    assert memory.corners["max"].largest_bytes == tensor * 300
    assert memory.corners["max"].unknown_sizes == 0


def test_quadratic_growth_is_a_warning_with_advice():
    attention = helper.make_graph(
        [
            helper.make_node("Transpose", ["x"], ["xt"], perm=[0, 2, 1], name="/T"),
            helper.make_node("MatMul", ["xt", "x"], ["scores"], name="/attn/MatMul"),
            helper.make_node("MatMul", ["x", "scores"], ["out"], name="/attn/Out"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, CHANNELS, "frames"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [2, CHANNELS, "frames"])],
    )
    declared = ComponentSpec("g", inputs={"x": InputSpec((2, CHANNELS, "frames"))})
    (memory,) = estimate_profiles(helper.make_model(attention), declared, [{"frames": (4, 500, 15000)}])
    assert memory.corners["max"].largest == "scores"
    assert "1.7 GiB per context at its maximum" in memory.warnings()[0]
    assert "second profile" in memory.warnings()[0]


def test_a_view_takes_no_memory_of_its_own():
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["a"], name="/Relu"),
            helper.make_node("Identity", ["a"], ["b"], name="/Identity"),
            helper.make_node("Relu", ["b"], ["out"], name="/Relu2"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["frames"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["frames"])],
    )
    declared = ComponentSpec("g", inputs={"x": InputSpec(("frames",))})
    (memory,) = estimate_profiles(helper.make_model(graph), declared, [{"frames": (10, 10, 10)}])
    assert memory.corners["min"].peak == 80


def test_a_graph_of_another_precision_is_refused(tmp_path):
    job = _job(tmp_path, small_estimator(), precision="fp16")
    error = error_of(run, job)
    assert error.where == str(job.inputs["onnx"])
    assert "precision=fp16" in error.remedy
    assert not job.outputs["report"].exists()
