"""The estimators of three generations from export to verified plan, with preflight at CosyVoice's own profile.

Each generation is exported twice for all tests: in fp32 as CosyVoice's loader expects it, and in fp16 with a dynamic
batch.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tasks.actions.build_plan import action as build_plan
from tasks.actions.preflight import action as preflight
from tasks.actions.verify import plan as verify_plan
from tasks.pipeline.step import Step
from tests.support.exports import Exports
from tests.support.plan_jobs import GPU
from tests.support.simulated_runtime import machine
from tests.support.steps import ESTIMATOR, FAMILIES, job_of, steps_of
from tests.support.tensorrt_double import VERSIONS
from tests.support.tensorrt_simulation import Machine

GENERATIONS = pytest.mark.parametrize("generation", FAMILIES)
EXPORTER = "onnx.exporter=torchscript"  # the quick one: what is tested comes after it
SHORT = ("tensorrt.profile.frames=[4,50,100]", "verify.trials=4", "verify.real_inputs=false", "verify.device=cpu")
DYNAMIC_BATCH = (
    "precision=fp16",
    "onnx.dynamic_batch=true",
    "model.axes.batch.max=8",
    "tensorrt.profile.batch=[2,4,8]",
    "tensorrt.profile.frames=[4,50,100]",
)


@cache
def steps(generation: str, *words: str) -> dict[str, Step]:
    return steps_of(generation, ESTIMATOR, EXPORTER, *words)


@pytest.fixture
def exported(exports: Exports, tmp_path: Path) -> Callable[..., Path]:
    def export(generation: str, *words: str) -> Path:
        step = steps(generation, *words)["export_onnx"]
        return exports(job_of(step, outputs={"onnx": tmp_path / "estimator.onnx"}))

    return export


@GENERATIONS
def test_every_estimator_passes_preflight_at_the_original_profile(exported, tmp_path, generation):
    facts = checked(steps(generation)["preflight"], exported(generation), tmp_path)
    ran = {(corner["batch"], corner["frames"]): corner["result"] for corner in facts["corners"]}
    assert ran == {(2, 4): "ran", (2, 500): "ran", (2, 3000): "ran"}
    assert facts["memory"][0]["max"]["unknown_sizes"] == 0
    assert not [line for line in facts["warnings"] if "TensorRT" in line]


@pytest.mark.parametrize("generation", [pytest.param("cosyvoice1", marks=pytest.mark.slow), "cosyvoice2", "cosyvoice3"])
def test_a_dynamic_batch_passes_preflight_too(exported, tmp_path, generation):
    step = steps(generation, *DYNAMIC_BATCH)["preflight"]
    corners = checked(step, exported(generation, *DYNAMIC_BATCH), tmp_path)["corners"]
    assert [(corner["batch"], corner["frames"], corner["result"]) for corner in corners] == [
        (2, 4, "ran"),
        (4, 50, "ran"),
        (8, 100, "ran"),
    ]


@GENERATIONS
def test_every_estimator_is_built_and_verified(exported, tmp_path, generation):
    plan = tmp_path / "a.plan"
    facts = built(generation, exported(generation), plan, trt=machine.trt)
    assert facts["layer_formats"].keys() == {"FLOAT"}
    step = steps(generation, *SHORT)["verify_plan"]
    params = {"runtime": "tests.support.simulated_runtime:open_artifact", "contents": ""}
    job = job_of(step, inputs={"artifact": plan}, outputs={"report": tmp_path / "report.json"}, params=params)
    (profile,) = verify_plan.run(job)["profiles"]
    assert profile["min_snr_db"] > 60


@GENERATIONS
def test_every_estimator_is_built_on_the_other_version_too(exported, tmp_path, generation):
    (other,) = set(VERSIONS) - {machine.version}
    facts = built(generation, exported(generation), tmp_path / "a.plan", trt=Machine(other).trt)
    assert facts["layer_formats"].keys() == {"FLOAT"}


def checked(step: Step, onnx: Path, folder: Path) -> dict[str, Any]:
    return preflight.run(job_of(step, inputs={"onnx": onnx}, outputs={"report": folder / "preflight.json"}))


def built(generation: str, onnx: Path, plan: Path, *, trt: Any) -> dict[str, Any]:
    step = steps(generation, *SHORT)["export_plan"]
    job = job_of(step, inputs={"onnx": onnx}, outputs={"plan": plan}, params={"gpu": GPU.slug})
    return build_plan.build(job, trt=trt, gpu=GPU)
