"""The estimators of three generations from export to verified plan, with preflight at CosyVoice's own profile.

Each generation is exported twice for all tests: in fp32 as CosyVoice's loader expects it, and in fp16 with a dynamic
batch.
"""

from pathlib import Path
from typing import Any

import pytest

from tasks.actions.build_plan import action as build_plan
from tasks.actions.export_onnx import action as export_onnx
from tasks.actions.preflight import action as preflight
from tasks.actions.verify import plan as verify_plan
from tasks.job import Job
from tasks.pipeline.component_params import declaration
from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.graph_inputs import Machine as Host
from tasks.settings.compose import load
from tests.support.folders import config_of, weights_of
from tests.support.golden_cases import GOLDEN
from tests.support.plan_jobs import GPU, SETTINGS
from tests.support.simulated_runtime import machine
from tests.support.tensorrt_double import VERSIONS
from tests.support.tensorrt_simulation import Machine

GENERATIONS = {"cosyvoice1": "cosyvoice", "cosyvoice2": "cosyvoice2", "cosyvoice3": "cosyvoice3"}  # folder -> model
LIMITS = {"rtol": 1e-2, "atol": 1e-4, "max_outside": 0, "max_peak_error": 1e-3, "min_snr_db": 60, "min_cosine": 0.999}
ONNX = {
    "opset": 18,
    "exporter": "torchscript",  # the quick one: what is tested comes after it
    "constant_folding": True,
    "simplify": False,
    "dynamic_batch": False,
    "keep_fp32": [],
    "external_data": "auto",
}


def _component(generation: str, *, frames: tuple[int, int, int] = (4, 500, 3000), batch: int = 2) -> dict:
    """The estimator as conf/model declares it."""
    words = [f"model={GENERATIONS[generation]}", f"model.dir={GOLDEN / generation}", f"model.axes.batch.max={batch}"]
    words += [f"model.axes.frames.{bound}={size}" for bound, size in zip(("min", "opt", "max"), frames, strict=True)]
    (config,) = load(words, workdir=GOLDEN)
    return declaration(GraphInputs(config, Host(), {}), config.model.components["flow_decoder_estimator"])


def _job(
    step: str, generation: str, outputs: dict[str, Path], inputs: dict[str, Path], component: dict, **params
) -> Job:
    sources = {"config": config_of(generation), "weights": weights_of(generation)}
    common = {"component": component, "precision": {"name": "fp32"}, "tensorrt": SETTINGS}
    return Job(step, "", sources | inputs, outputs, common | params)


@pytest.fixture(scope="module", params=GENERATIONS)
def generation(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def fixed_batch(generation, tmp_path_factory) -> Path:
    return _export(generation, tmp_path_factory.mktemp(generation), precision="fp32", dynamic_batch=False)


@pytest.fixture(scope="module")
def dynamic_batch(generation, tmp_path_factory) -> Path:
    return _export(generation, tmp_path_factory.mktemp(generation), precision="fp16", dynamic_batch=True)


def _export(generation: str, folder: Path, *, precision: str, dynamic_batch: bool) -> Path:
    component = _component(generation, frames=(4, 50, 100), batch=8 if dynamic_batch else 2)
    path = folder / f"flow.decoder.estimator.{precision}.onnx"
    params = {"onnx": ONNX | {"dynamic_batch": dynamic_batch}, "precision": {"name": precision}}
    export_onnx.run(_job("export_onnx", generation, {"onnx": path}, {}, component, **params))
    return path


def test_every_estimator_passes_preflight_at_the_original_profile(generation, fixed_batch, tmp_path):
    component = _component(generation)
    job = _job("preflight", generation, {"report": tmp_path / "r.json"}, {"onnx": fixed_batch}, component)
    facts = preflight.run(job)
    ran = {(corner["batch"], corner["frames"]): corner["result"] for corner in facts["corners"]}
    assert ran == {(2, 4): "ran", (2, 500): "ran", (2, 3000): "ran"}
    assert facts["memory"][0]["max"]["unknown_sizes"] == 0
    assert not [line for line in facts["warnings"] if "TensorRT" in line]


def test_a_dynamic_batch_passes_preflight_too(generation, dynamic_batch, tmp_path):
    component = _component(generation, frames=(4, 50, 100), batch=8)
    job = _job(
        "preflight", generation, {"report": tmp_path / "r.json"}, {"onnx": dynamic_batch}, component,
        precision={"name": "fp16"}, tensorrt=SETTINGS | {"profile": {"batch": [2, 4, 8]}},
    )  # fmt: skip
    corners = preflight.run(job)["corners"]
    assert [(corner["batch"], corner["frames"], corner["result"]) for corner in corners] == [
        (2, 4, "ran"),
        (4, 50, "ran"),
        (8, 100, "ran"),
    ]


def test_every_estimator_is_built_and_verified(generation, fixed_batch, tmp_path):
    facts = _build(generation, fixed_batch, tmp_path / "a.plan", trt=machine.trt)
    assert facts["layer_formats"].keys() == {"FLOAT"}
    component = _component(generation, frames=(4, 50, 100))
    verify = LIMITS | {"trials": 4, "seed": 0, "max_frames": 1000, "device": "cpu"}
    job = _job(
        "verify_plan", generation, {"report": tmp_path / "r.json"}, {"artifact": tmp_path / "a.plan"}, component,
        verify=verify, runtime="tests.support.simulated_runtime:open_artifact",
    )  # fmt: skip
    (profile,) = verify_plan.run(job)["profiles"]
    assert profile["min_snr_db"] > 60


def test_every_estimator_is_built_on_the_other_version_too(generation, fixed_batch, tmp_path):
    (other,) = set(VERSIONS) - {machine.version}
    facts = _build(generation, fixed_batch, tmp_path / "a.plan", trt=Machine(other).trt)
    assert facts["layer_formats"].keys() == {"FLOAT"}


def _build(generation: str, onnx: Path, plan: Path, *, trt: Any) -> dict[str, Any]:
    job = _job("export_plan", generation, {"plan": plan}, {"onnx": onnx}, _component(generation, frames=(4, 50, 100)))
    return build_plan.build(job, trt=trt, gpu=GPU)
