"""Jobs that export and verify the recorded estimator or a small module, with one thing changed."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import nn

from tasks.job import Job
from tasks.pipeline.step import Step
from tests.support import small_onnx_models
from tests.support.folders import config_of, weights_of
from tests.support.steps import ESTIMATOR, job_of, steps_of

EXPORTERS = pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
# Dynamo takes some times longer: by default only where the exporter itself is what a test is about.
QUICK_EXPORTER = pytest.mark.parametrize("exporter", ["torchscript", pytest.param("dynamo", marks=pytest.mark.slow)])
EXPORTERS_AND_PRECISIONS = pytest.mark.parametrize(
    ("exporter", "precision"),
    [
        ("torchscript", "fp32"),
        ("torchscript", "fp16"),
        ("dynamo", "fp32"),
        pytest.param("dynamo", "fp16", marks=pytest.mark.slow),
    ],
)


@cache
def estimator_steps(precision: str = "fp32") -> dict[str, Step]:
    """Steps of CosyVoice 2's estimator at sizes that a test can afford."""
    words = (f"precision={precision}", "verify.trials=6", "verify.max_frames=60", "verify.device=cpu")
    return steps_of("cosyvoice2", ESTIMATOR, *words, "verify.real_inputs=false")


@cache
def encoder_component() -> dict[str, Any]:
    """CosyVoice 2's encoder for short utterances."""
    words = ("model.axes.utterances.max=4", "model.axes.tokens={min: 4, opt: 25, max: 60}")
    return dict(steps_of("cosyvoice2", "flow.encoder", *words)["export_onnx"].params["component"])


def estimator_component(**changes: Any) -> dict[str, Any]:
    """CosyVoice 2's estimator with the original names and sizes."""
    return estimator_steps()["export_onnx"].params["component"] | changes


def small_component(module: str, **changes: Any) -> dict[str, Any]:
    """A module of small_onnx_models with one input and one output of (2, 8, frames)."""
    return {
        "name": f"small.{module}",
        "part": "small",
        "loader": f"{small_onnx_models.__name__}:load_component",
        "inputs": {"x": {"shape": ["batch", 8, "frames"]}},
        "outputs": {"y": ["batch", 8, "frames"]},
        "options": {},
        "axes": {
            "batch": {"min": 2, "opt": 2, "max": 2, "dynamic": False},
            "frames": {"min": 4, "opt": 20, "max": 40},
        },
    } | changes


def small_export_job(module: str, folder: Path, *, component: dict[str, Any] | None = None, **settings: Any) -> Job:
    """The export of a module of small_onnx_models with its initial weights, saved in `folder`, to a folder in it."""
    weights = saved_weights(getattr(small_onnx_models, module)(), folder)
    (folder / "onnx").mkdir(exist_ok=True)
    return export_job(component or small_component(module), folder / "onnx", weights=weights, **settings)


def saved_weights(module: nn.Module, folder: Path) -> Path:
    torch.save(module.state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


def export_job(
    component: dict[str, Any], folder: Path, *, precision: str = "fp32", weights: Path | None = None, **onnx: Any
) -> Job:
    step = estimator_steps(precision)["export_onnx"]
    return job_of(
        step,
        inputs=_sources(weights),
        outputs={"onnx": folder / f"{component['name']}.{precision}.onnx"},
        params={"component": component, "onnx": step.params["onnx"] | onnx},
    )


TORCHSCRIPT = {
    "runtime": "tasks.runtimes.torchscript:open_artifact",
    "contents": "tasks.runtimes.torchscript:contents",
}


def verify_job(
    component: dict[str, Any],
    artifact: Path,
    *,
    precision: str = "fp32",
    weights: Path | None = None,
    engine: Mapping[str, str] = MappingProxyType({}),
    **verify: Any,
) -> Job:
    """`engine`: `runtime` and `contents` of another one than ONNX Runtime."""
    step = estimator_steps(precision)["verify_onnx"]
    return job_of(
        step,
        inputs=_sources(weights) | {"artifact": artifact},
        outputs={"report": artifact.with_name("report.json")},
        params={"component": component, "verify": step.params["verify"] | verify, **engine},
    )


def _sources(weights: Path | None) -> dict[str, Path]:
    return {"config": config_of("cosyvoice2"), "weights": weights or weights_of("cosyvoice2")}
