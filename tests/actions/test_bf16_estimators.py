"""The estimators of three generations in bf16: exported, compared with the original, checked for a plan."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from tasks.actions.build_plan.onnx_interface import check_precision, describe_interface, load_graph
from tasks.actions.inputs.generated import Padding, make_case
from tasks.actions.preflight import action as preflight
from tasks.actions.verify import compare
from tasks.actions.verify.metrics import metrics
from tasks.models.cosyvoice.folder import load_component
from tasks.pipeline.step import Step
from tasks.runtimes.onnxruntime_.session import EMULATED, open_artifact
from tasks.settings.component import ComponentSpec
from tests.support.errors import error_of
from tests.support.exports import Exports
from tests.support.steps import ESTIMATOR, job_of, steps_of

OPSETS = {"cosyvoice1": 17, "cosyvoice2": 18, "cosyvoice3": 20}
# CosyVoice 2's by the default exporter as well, which takes three times as long
FILES = pytest.mark.parametrize(
    ("family", "exporter"),
    [
        pytest.param("cosyvoice1", "torchscript", marks=pytest.mark.slow),
        ("cosyvoice2", "torchscript"),
        ("cosyvoice3", "torchscript"),
        pytest.param("cosyvoice2", "dynamo", marks=pytest.mark.slow),
    ],
)


@cache
def bf16_steps(family: str, exporter: str) -> dict[str, Step]:
    """Steps as the command line would give them."""
    words = ["precision=bf16", f"onnx.opset={OPSETS[family]}", f"onnx.exporter={exporter}"]
    words += ["verify.device=cpu", "verify.real_inputs=false", "verify.trials=3", "verify.max_frames=600"]
    return steps_of(family, ESTIMATOR, *words, "tensorrt.profile.frames=[4,20,60]")


@pytest.fixture
def exported(exports: Exports, tmp_path: Path) -> Callable[[str, str], Path]:
    """The estimator's file of a family."""

    def export(family: str, exporter: str) -> Path:
        step = bf16_steps(family, exporter)["export_onnx"]
        return exports(job_of(step, outputs={"onnx": tmp_path / "estimator.onnx"}))

    return export


def verified(family: str, exporter: str, path: Path) -> dict[str, Any]:
    """Verification of a file that the test may change; the report lies beside it."""
    step = bf16_steps(family, exporter)["verify_onnx"]
    return compare.run(job_of(step, inputs={"artifact": path}, outputs={"report": path.with_name("report.json")}))


@FILES
def test_it_passes_verification_on_a_cpu_and_the_report_says_how(exported, tmp_path, family, exporter):
    facts = verified(family, exporter, Path(shutil.copy(exported(family, exporter), tmp_path)))
    assert facts["provider"].endswith(EMULATED)
    assert 35 < facts["min_snr_db"] < 50  # far above that it would not be bf16 that was computed in


@FILES
def test_its_velocity_is_near_the_originals_on_inputs_that_are_not_rounded(exported, family, exporter):
    """A time step in bf16 would leave 20 to 27 dB of it."""
    session = open_artifact(exported(family, exporter), device="cpu")
    random = torch.Generator().manual_seed(0)
    step = bf16_steps(family, exporter)["export_onnx"]
    component = ComponentSpec.from_params(step.params["component"])
    module = load_component(component, config=step.inputs["config"], weights=step.inputs["weights"])
    sizes = {"batch": 2, "frames": 60, "mel": 80}
    inputs = make_case(component, sizes, padding=Padding.random, random=random).inputs
    inputs["t"] = torch.tensor([0.2928932, 0.8435655])  # of the cosine schedule, no numbers of bf16
    assert session.dtypes["t"] == torch.float32
    (found,) = session({name: value.to(session.dtypes[name]) for name, value in inputs.items()})
    with torch.inference_mode():
        expected = module(**inputs, **component.options)
    assert metrics(found, expected, rtol=0, atol=0).snr_db > 35


@FILES
def test_it_passes_preflight_as_a_bf16_graph(exported, tmp_path, family, exporter):
    path, step = exported(family, exporter), bf16_steps(family, exporter)["preflight"]
    facts = preflight.run(job_of(step, inputs={"onnx": path}, outputs={"report": tmp_path / "report.json"}))
    assert {corner["result"] for corner in facts["corners"]} == {"ran"}
    assert not facts["warnings"]
    graph = describe_interface(load_graph(path))
    check_precision(graph, "bf16", where=path)
    assert graph.precision == "BF16"
    error = error_of(check_precision, graph, "fp16", where=path)
    assert error.where == str(path)
    assert "precision=fp16" in str(error)


@FILES
def test_the_graph_takes_and_returns_bf16_but_for_the_time_and_multiplies_matrices_in_it(exported, family, exporter):
    model = onnx.shape_inference.infer_shapes(onnx.load(exported(family, exporter)), strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert types.pop("t") == onnx.TensorProto.FLOAT
    assert set(types.values()) == {onnx.TensorProto.BFLOAT16}
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    made = {(node.op_type, types[node.output[0]]) for node in model.graph.node if node.output[0] in types}
    assert {("MatMul", 16), ("Conv", 1), ("Softmax", 1)} <= made  # Conv: not before opset 22
    assert ("MatMul", 1) not in made


def test_a_weight_that_was_changed_fails_verification(exported, tmp_path):
    path = Path(shutil.copy(exported("cosyvoice2", "torchscript"), tmp_path))
    model = onnx.load(path)
    largest = max((w for w in model.graph.initializer if w.data_type == 16), key=lambda w: len(w.raw_data))
    values = torch.frombuffer(bytearray(largest.raw_data), dtype=torch.bfloat16)
    values[: values.numel() // 8] *= -1
    largest.raw_data = values.view(torch.uint8).numpy().tobytes()
    onnx.save(model, path)
    error = error_of(verified, "cosyvoice2", "torchscript", path)
    assert error.where == str(path)
    assert "3 of 3" in error.what
