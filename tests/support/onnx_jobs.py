"""Jobs that export and verify the recorded estimator or a small module, with one thing changed."""

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from tasks.job import Job
from tasks.pipeline.component_params import declaration
from tasks.pipeline.graph_inputs import GraphInputs, Machine
from tasks.settings.compose import load
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


def declared(model: str, key: str, *words: str) -> dict[str, Any]:
    """A component's declaration as a step of `model` has it in its parameters, with settings changed by `words`."""
    (config,) = load([f"model={model}", *words], workdir=CONF)
    return declaration(GraphInputs(config, Machine(), {}), config.model.components[key])


ESTIMATOR = declared("cosyvoice2", "flow_decoder_estimator", "model.axes.batch.multiple_of=1")
ENCODER = declared(
    "cosyvoice2", "flow_encoder", "model.axes.utterances.max=4", "model.axes.tokens={min: 4, opt: 25, max: 60}"
)


def estimator_component(**changes: Any) -> dict[str, Any]:
    """CosyVoice 2's estimator with the original names and sizes."""
    return ESTIMATOR | changes


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
    runtime: str = "tasks.runtimes.onnxruntime_.session:open_artifact",
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
            "runtime": runtime,
        },
    )
