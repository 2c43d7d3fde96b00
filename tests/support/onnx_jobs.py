"""Jobs that export and verify the recorded estimator or a small module, with one thing changed."""

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from tasks.job import Job
from tests.support import small_onnx_models
from tests.support.folders import config_of, weights_of

CONF = Path(__file__).parents[2] / "conf"
KEEP = ["LayerNormalization", "Softmax", "Mish", "Sin", "Cos"]
ONNX = {
    "opset": 18,
    "exporter": "dynamo",
    "constant_folding": True,
    "simplify": True,
    "dynamic_batch": False,
    "keep_fp32": KEEP,
    "external_data": "auto",
}


FRAMES = ["batch", 80, "frames"]
ESTIMATOR = {
    "name": "flow.decoder.estimator",
    "part": "flow",
    "loader": "tasks.models.cosyvoice.folder",
    "module": "tasks.models.cosyvoice.estimator.unet:CausalConditionalDecoder",
    "inputs": {
        "x": {"shape": FRAMES, "values": "normal"},
        "mask": {"shape": ["batch", 1, "frames"], "values": "mask"},
        "mu": {"shape": FRAMES, "values": "normal"},
        "t": {"shape": ["batch"], "values": "time"},
        "spks": {"shape": ["batch", 80], "values": "normal"},
        "cond": {"shape": FRAMES, "values": "normal"},
    },
    "outputs": {"estimator_out": FRAMES},
    "options": {"streaming": False},
    "axes": {"batch": {"min": 2, "opt": 2, "max": 2}, "frames": {"min": 4, "opt": 500, "max": 3000}},
}
ENCODER = {
    "name": "flow.encoder",
    "part": "flow",
    "loader": "tasks.models.cosyvoice.folder",
    "module": "tasks.models.cosyvoice.encoder.upsample:UpsampleConformerEncoder",
    "inputs": {
        "xs": {"shape": ["utterances", "tokens", "width"], "values": "normal"},
        "xs_lens": {"shape": ["utterances"], "values": "lengths", "dtype": "int32"},
    },
    "outputs": {"ys": ["utterances", "upsampled", "width"], "masks": ["utterances", 1, "upsampled"]},
    "kept_methods": [],
    "options": {},
    "axes": {"utterances": {"min": 1, "opt": 1, "max": 4}, "tokens": {"min": 4, "opt": 25, "max": 60}},
}


def estimator_component(**changes: Any) -> dict[str, Any]:
    """CosyVoice 2's estimator with the published names and sizes."""
    return ESTIMATOR | changes


def small_component(module: str, **changes: Any) -> dict[str, Any]:
    """A module of small_onnx_models with one input and one output of (2, 8, frames)."""
    return {
        "name": f"small.{module}",
        "part": "small",
        "loader": small_onnx_models.__name__,
        "module": module,
        "inputs": {"x": {"shape": ["batch", 8, "frames"], "values": "normal"}},
        "outputs": {"y": ["batch", 8, "frames"]},
        "options": {},
        "axes": {"batch": {"min": 2, "opt": 2, "max": 2}, "frames": {"min": 4, "opt": 20, "max": 40}},
    } | changes


def saved_weights(module: nn.Module, folder: Path) -> Path:
    torch.save(module.state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


def export_job(
    component: dict[str, Any], folder: Path, *, precision: str = "fp32", weights: Path | None = None, **onnx: Any
) -> Job:
    return Job(
        step=f"export_onnx:test/{component['name']}.{precision}",
        action="tasks.actions.export_onnx.action:run",
        inputs={"config": config_of("cosyvoice2"), "weights": weights or weights_of("cosyvoice2")},
        outputs={"onnx": folder / f"{component['name']}.{precision}.onnx"},
        params={"component": component, "precision": {"name": precision}, "onnx": ONNX | onnx},
    )


def verify_job(
    component: dict[str, Any],
    artifact: Path,
    *,
    precision: str = "fp32",
    weights: Path | None = None,
    runtime: str = "onnxruntime_session",
    **verify: Any,
) -> Job:
    limits = yaml.safe_load((CONF / "verify" / f"{precision}.yaml").read_text(encoding="utf-8"))
    settings = {"trials": 6, "seed": 0, "max_frames": 60, "device": "cpu"}
    return Job(
        step=f"verify:test/{artifact.name}",
        action="tasks.actions.verify.compare:run",
        inputs={
            "config": config_of("cosyvoice2"),
            "weights": weights or weights_of("cosyvoice2"),
            "artifact": artifact,
        },
        outputs={"report": artifact.with_name("report.json")},
        params={
            "component": component,
            "precision": {"name": precision},
            "verify": settings | limits | verify,
            "runtime": f"tasks.runtimes.{runtime}",
        },
    )
