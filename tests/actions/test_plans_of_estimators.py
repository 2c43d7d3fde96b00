"""The estimators of three generations go the whole way: export, preflight at the published profile, build, verify."""

from pathlib import Path

import pytest

from tasks.actions.build_plan import action as build_plan
from tasks.actions.export_onnx import action as export_onnx
from tasks.actions.preflight import action as preflight
from tasks.actions.verify import plan as verify_plan
from tasks.job import Job
from tasks.machine.gpus import Gpu
from tasks.pipeline.component_params import Context, declaration
from tasks.pipeline.component_params import Machine as Host
from tasks.settings.compose import load
from tests.actions.test_build_plan import SETTINGS
from tests.support.folders import config_of, weights_of
from tests.support.golden_cases import GOLDEN
from tests.support.simulated_runtime import machine
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
    return declaration(Context(config, Host(), {}, ()), config.model.components["flow_decoder_estimator"])


def _job(
    step: str, generation: str, outputs: dict[str, Path], inputs: dict[str, Path], component: dict, **params
) -> Job:
    sources = {"config": config_of(generation), "weights": weights_of(generation)}
    common = {"component": component, "precision": {"name": "fp32"}, "tensorrt": SETTINGS}
    return Job(step, "", sources | inputs, outputs, common | params)


def _exported(
    generation: str, folder: Path, component: dict, *, precision: str = "fp32", dynamic_batch: bool = False
) -> Path:
    path = folder / f"flow.decoder.estimator.{precision}.onnx"
    params = {"onnx": ONNX | {"dynamic_batch": dynamic_batch}, "precision": {"name": precision}}
    export_onnx.run(_job("export_onnx", generation, {"onnx": path}, {}, component, **params))
    return path


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_estimator_passes_preflight_at_the_published_profile(generation, tmp_path):
    component = _component(generation)
    onnx = _exported(generation, tmp_path, component)
    facts = preflight.run(_job("preflight", generation, {"report": tmp_path / "r.json"}, {"onnx": onnx}, component))
    ran = {(corner["batch"], corner["frames"]): corner["result"] for corner in facts["corners"]}
    assert ran == {(2, 4): "ran", (2, 500): "ran", (2, 3000): "ran"}
    assert facts["memory"][0]["max"]["unknown_sizes"] == 0
    assert not [line for line in facts["warnings"] if "TensorRT" in line]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_dynamic_batch_passes_preflight_too(generation, precision, tmp_path):
    component = _component(generation, frames=(4, 50, 100), batch=8)
    onnx = _exported(generation, tmp_path, component, precision=precision, dynamic_batch=True)
    job = _job(
        "preflight", generation, {"report": tmp_path / "r.json"}, {"onnx": onnx}, component,
        precision={"name": precision}, tensorrt=SETTINGS | {"profile": {"batch": [2, 4, 8]}},
    )  # fmt: skip
    corners = preflight.run(job)["corners"]
    assert [(corner["batch"], corner["frames"], corner["result"]) for corner in corners] == [
        (2, 4, "ran"),
        (4, 50, "ran"),
        (8, 100, "ran"),
    ]


@pytest.mark.parametrize("version", ["10.13.3", "11.4.0"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_estimator_is_built_and_verified(generation, version, tmp_path):
    component = _component(generation, frames=(4, 50, 100))
    onnx, plan = _exported(generation, tmp_path, component), tmp_path / "estimator.plan"
    gpu = Gpu(0, "NVIDIA H200", "9.0", "580.65.06")
    built = build_plan.build(
        _job("export_plan", generation, {"plan": plan}, {"onnx": onnx}, component), trt=Machine(version).trt, gpu=gpu
    )
    assert built["layer_formats"].keys() == {"FLOAT"}
    if version != machine.version:
        return  # the runtime of the verifier is the other one
    verify = LIMITS | {"trials": 4, "seed": 0, "max_frames": 1000, "device": "cpu"}
    job = _job(
        "verify_plan", generation, {"report": tmp_path / "r.json"}, {"artifact": plan}, component,
        verify=verify, runtime="tests.support.simulated_runtime:open_artifact",
    )  # fmt: skip
    (profile,) = verify_plan.run(job)["profiles"]
    assert profile["min_snr_db"] > 60
