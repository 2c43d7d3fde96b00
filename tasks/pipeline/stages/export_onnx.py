"""The steps that make and verify one component's artifacts. Pure."""

from pathlib import Path
from typing import Any

from tasks.job import RECORDED
from tasks.pipeline.component_params import (
    Context,
    artifact_name,
    declaration,
    device,
    identity,
    sources,
)
from tasks.pipeline.step import Skip, Step
from tasks.plain_data import plain
from tasks.settings.onnx_exporters import exporter_for
from tasks.settings.schema import Component, Config, Exporter, Target

VLLM_FILES = ("config.json", "generation_config.json", "model.safetensors")


def export_jit(context: Context, component: Component) -> Step:
    config = context.config
    target = config.torchscript.target
    if target is Target.auto:
        target = Target.cuda if context.machine.cuda else Target.cpu
    return Step(
        stage="export_jit",
        name=artifact_name(context, component),
        action="tasks.actions.export_torchscript.action:run",
        inputs=sources(context, component),
        outputs={"zip": context.paths.torchscript(component.name, config.precision.name)},
        params={
            "component": identity(component) | {"kept_methods": list(component.kept_methods)},
            "precision": plain(config.precision),
            "torchscript": plain(config.torchscript) | {"target": target.value},
        },
        libraries=("torch",),
    )


def export_onnx(context: Context, component: Component) -> Step:
    config = context.config
    return Step(
        stage="export_onnx",
        name=artifact_name(context, component),
        action="tasks.actions.export_onnx.action:run",
        inputs=sources(context, component),
        outputs={"onnx": context.paths.onnx(component.name, config.precision.name)},
        params={
            "component": declaration(context, component),
            "precision": plain(config.precision),
            "onnx": _onnx_settings(config),
        },
        libraries=("torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnx-ir"),
    )


def _onnx_settings(config: Config) -> dict[str, Any]:
    settings: dict[str, Any] = plain(config.onnx)
    if config.onnx.exporter is Exporter.auto:
        settings["exporter"] = exporter_for(config.onnx.opset)
    if config.precision.name == "fp32":
        settings["keep_fp32"] = []  # nothing there could lose it
    return settings


def record(context: Context, component: Component, recorder: str) -> Step:
    """One file whatever the precision: the original speaks in fp32."""
    return Step(
        stage="record",
        name=f"{context.config.model.name}/{component.name}",
        action="tasks.actions.record:run",
        inputs=sources(context, component),
        outputs={RECORDED: context.paths.recorded(component.name)},
        params={
            "component": {"name": component.name, "part": component.part, "inputs": plain(component.inputs)},
            "recorder": recorder,
        },
        libraries=("torch",),
    )


def verification(context: Context, component: Component, export: Step, *, runtime: str) -> Step:
    ((role, artifact),) = export.outputs.items()
    settings = plain(context.config.verify) | {"device": device(context)}
    for name in ("auto", "real_inputs"):
        del settings[name]  # these decide whether, not what
    return Step(
        stage=export.stage.replace("export", "verify"),
        name=export.name,
        action="tasks.actions.verify.compare:run",
        inputs={**sources(context, component), "artifact": artifact, **_recordings(context, component)},
        outputs={"report": context.paths.report(artifact)},
        params={
            "component": declaration(context, component) | _methods(component, role),
            "precision": plain(context.config.precision),
            "verify": settings,
            "runtime": runtime,
        },
        libraries=("torch", *(("onnxruntime-gpu",) if role == "onnx" else ())),
    )


def _recordings(context: Context, component: Component) -> dict[str, Path]:
    """Files of inputs that verification tries as well: the model's own, and the user's."""
    own = component.recorder and context.config.verify.real_inputs
    files = {f"{RECORDED} {n}": Path(path) for n, path in enumerate(component.recordings, start=1)}
    return ({RECORDED: context.paths.recorded(component.name)} if own else {}) | files


def _methods(component: Component, role: str) -> dict[str, Any]:
    """Methods beside forward that verification runs, which only a TorchScript file has."""
    chunked = {"chunked": plain(component.chunked)} if component.chunked and role == "zip" else {}
    return {"kept_methods": list(component.kept_methods)} | chunked


def export_vllm(context: Context, component: Component) -> Step:
    """One folder whatever the precision: vLLM is given bf16."""
    folder = context.paths.vllm
    return Step(
        stage="export_vllm",
        name=f"{context.config.model.name}/{component.name}",
        action="tasks.actions.export_vllm:run",
        inputs=sources(context, component),
        outputs={name: folder / name for name in VLLM_FILES},
        params={"component": identity(component)},
        libraries=("torch", "transformers", "safetensors"),
        folder=folder,
        skip=_vllm_obstacle(context, component),
    )


def verify_vllm(context: Context, component: Component, export: Step) -> Step:
    return Step(
        stage="verify_vllm",
        name=export.name,
        action="tasks.actions.verify.vllm:run",
        inputs={**sources(context, component), **{f"vllm/{name}": path for name, path in export.outputs.items()}},
        outputs={"report": context.paths.report(context.paths.vllm)},
        params={"component": identity(component), "vllm": plain(context.config.vllm), "device": device(context)},
        libraries=("torch", "transformers", "safetensors"),
        skip=export.skip,
    )


def _vllm_obstacle(context: Context, component: Component) -> Skip | None:
    missing = [file for file in component.files.values() if file in context.absent]
    if missing:
        return Skip(f"the model folder has no {', '.join(missing)}", "Copy or download it", refuses=True)
    if not context.machine.transformers:
        return Skip("transformers is not installed", "pip install 'voxkiln[llm]'", refuses=True)
    return None
