"""The estimators of three generations in bf16: exported, compared with the original, checked for a plan."""

import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from tasks.actions.build_plan.onnx_interface import check_precision, describe_graph, load_graph
from tasks.actions.export_onnx import action as export_onnx
from tasks.actions.inputs.generated import Padding, make_case
from tasks.actions.preflight import action as preflight
from tasks.actions.verify import compare
from tasks.actions.verify.metrics import metrics
from tasks.errors import UserError
from tasks.job import Job
from tasks.models.cosyvoice.folder import load_component
from tasks.pipeline.component_params import declaration
from tasks.pipeline.graph_inputs import GraphInputs, Machine
from tasks.plain_data import plain
from tasks.runtimes.onnxruntime_.session import EMULATED, open_artifact
from tasks.settings.component import ComponentSpec
from tasks.settings.compose import load
from tests.support.folders import config_of, weights_of
from tests.support.golden_cases import GOLDEN
from tests.support.made_once import made_once

MODELS = {"cosyvoice1": "cosyvoice", "cosyvoice2": "cosyvoice2", "cosyvoice3": "cosyvoice3"}
FAMILIES = pytest.mark.parametrize("family", MODELS)
# CosyVoice 2's by the exporter that is the default, which takes three times as long
OPSETS = {"cosyvoice1": 17, "cosyvoice2": 18, "cosyvoice3": 20}
EXPORTERS = {"cosyvoice1": "torchscript", "cosyvoice2": "dynamo", "cosyvoice3": "torchscript"}


def bf16_job(family: str, action: str, inputs: dict[str, Path], outputs: dict[str, Path]) -> Job:
    """A step's job with the settings that the command line would give it."""
    words = [f"model={MODELS[family]}", f"model.dir={GOLDEN / family}", "precision=bf16", "verify.device=cpu"]
    words += [f"onnx.opset={OPSETS[family]}", f"onnx.exporter={EXPORTERS[family]}", "verify.trials=3"]
    (config,) = load([*words, "verify.max_frames=600", "tensorrt.profile.frames=[4,20,60]"], workdir=GOLDEN)
    params: dict[str, Any] = {
        "component": declaration(GraphInputs(config, Machine(), {}), config.model.components["flow_decoder_estimator"]),
        "precision": plain(config.precision),
        "onnx": plain(config.onnx),
        "verify": plain(config.verify),
        "tensorrt": {"profile": {"frames": [4, 20, 60]}},
        "runtime": "tasks.runtimes.onnxruntime_.session:open_artifact",
    }
    sources = {"config": config_of(family), "weights": weights_of(family)}
    return Job(f"{action}:{family}", "", sources | inputs, outputs, params)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The estimator's file of a family; made once."""

    def export(family: str) -> Path:
        return made_once(tmp_path_factory, f"bf16-{family}", lambda root: _export(family, root)) / "estimator.onnx"

    return export


def _export(family: str, root: Path) -> None:
    export_onnx.run(bf16_job(family, "export_onnx", {}, {"onnx": root / "estimator.onnx"}))


@FAMILIES
def test_it_passes_verification_on_a_cpu_and_the_report_says_how(exported, tmp_path, family):
    path = Path(shutil.copy(exported(family), tmp_path))
    facts = compare.run(bf16_job(family, "verify_onnx", {"artifact": path}, {"report": tmp_path / "report.json"}))
    assert facts["provider"].endswith(EMULATED)
    assert 35 < facts["min_snr_db"] < 50  # far above that it would not be bf16 that was computed in


@FAMILIES
def test_its_velocity_is_near_the_originals_on_inputs_that_are_not_rounded(exported, family):
    """A time step in bf16 would leave 20 to 27 dB of it."""
    session = open_artifact(exported(family), device="cpu")
    random = torch.Generator().manual_seed(0)
    job = bf16_job(family, "", {}, {})
    component = ComponentSpec.from_params(job.params["component"])
    module = load_component(component, config=job.inputs["config"], weights=job.inputs["weights"])
    sizes = {"batch": 2, "frames": 60, "mel": 80}
    inputs = make_case(component, sizes, padding=Padding.random, random=random).inputs
    inputs["t"] = torch.tensor([0.2928932, 0.8435655])  # of the cosine schedule, no numbers of bf16
    assert session.dtypes["t"] == torch.float32
    (found,) = session({name: value.to(session.dtypes[name]) for name, value in inputs.items()})
    with torch.inference_mode():
        expected = module(**inputs, **component.options)
    assert metrics(found, expected, rtol=0, atol=0).snr_db > 35


@FAMILIES
def test_it_passes_preflight_as_a_bf16_graph(exported, tmp_path, family):
    path = exported(family)
    facts = preflight.run(bf16_job(family, "preflight", {"onnx": path}, {"report": tmp_path / "report.json"}))
    assert {corner["result"] for corner in facts["corners"]} == {"ran"}
    assert not facts["warnings"]
    graph = describe_graph(load_graph(path))
    check_precision(graph, "bf16", where=path)
    assert graph.precision == "BF16"
    with pytest.raises(UserError, match="precision=fp16 asks for HALF, but the graph's weights are BF16"):
        check_precision(graph, "fp16", where=path)


@FAMILIES
def test_the_graph_takes_and_returns_bf16_but_for_the_time_and_multiplies_matrices_in_it(exported, family):
    model = onnx.shape_inference.infer_shapes(onnx.load(exported(family)), strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert types.pop("t") == onnx.TensorProto.FLOAT
    assert set(types.values()) == {onnx.TensorProto.BFLOAT16}
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    made = {(node.op_type, types[node.output[0]]) for node in model.graph.node if node.output[0] in types}
    assert {("MatMul", 16), ("Conv", 1), ("Softmax", 1)} <= made  # Conv: not before opset 22
    assert ("MatMul", 1) not in made


def test_a_weight_that_was_changed_fails_verification(exported, tmp_path):
    path = Path(shutil.copy(exported("cosyvoice1"), tmp_path))
    model = onnx.load(path)
    largest = max((w for w in model.graph.initializer if w.data_type == 16), key=lambda w: len(w.raw_data))
    values = torch.frombuffer(bytearray(largest.raw_data), dtype=torch.bfloat16)
    values[: values.numel() // 8] *= -1
    largest.raw_data = values.view(torch.uint8).numpy().tobytes()
    onnx.save(model, path)
    with pytest.raises(UserError, match="differs from the original module"):
        compare.run(bf16_job("cosyvoice1", "verify_onnx", {"artifact": path}, {"report": tmp_path / "report.json"}))
