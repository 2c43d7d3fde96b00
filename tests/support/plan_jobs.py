"""Builds of plans on a simulated machine: the job, its settings, and what a build that must fail raises."""

from pathlib import Path

import onnx
import pytest

from tasks.actions.build_plan import action
from tasks.errors import UserError
from tasks.job import Job
from tasks.machine.gpus import Gpu
from tests.support.onnx_samples import component, small_estimator
from tests.support.tensorrt_simulation import Machine

GPU = Gpu(0, "NVIDIA H200", "9.0", "580.65.06")
SETTINGS = {
    "profile": {},
    "profiles": [],
    "workspace_gib": 4.0,
    "optimization_level": 3,
    "hardware_compatibility": "none",
    "version_compatible": False,
    "tf32": False,
}


def plan_job(
    folder: Path, *, precision="fp32", model=None, declared=None, gpu="h200-sm90", timing_cache=None, **settings
) -> Job:
    path = folder / "small.onnx"
    onnx.save(model or small_estimator(precision=precision), path)
    (folder / "out").mkdir(exist_ok=True)
    return Job(
        step=f"export_plan:demo/small.estimator.{precision}",
        action="tasks.actions.build_plan.action:run",
        inputs={"onnx": path},
        outputs={"plan": folder / "out" / "small.plan"},
        params={
            "component": declared or component(),
            "precision": {"name": precision},
            "tensorrt": SETTINGS | settings,
            "gpu": gpu,
        },
        local={"timing_cache": timing_cache},
        threads=2,
    )


def build(machine: Machine, job: Job) -> dict:
    return action.build(job, trt=machine.trt, gpu=GPU)


def rejection(machine: Machine, job: Job) -> UserError:
    """The error of a build that leaves no file behind."""
    with pytest.raises(UserError) as caught:
        build(machine, job)
    assert list(job.outputs["plan"].parent.iterdir()) == []
    return caught.value
