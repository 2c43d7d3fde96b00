"""`export_onnx`: a component as an ONNX file."""

from typing import Any

from tasks.pipeline.component_params import artifact_name, declaration, records, sources
from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.stage import Earlier
from tasks.pipeline.step import Step
from tasks.plain_data import plain
from tasks.settings.model_schema import Component, Format
from tasks.settings.onnx_exporters import exporter_for
from tasks.settings.schema import Config, Exporter


def step(given: GraphInputs, component: Component, _earlier: Earlier) -> Step | None:
    if not {Format.onnx, Format.tensorrt} & set(component.formats):  # plans are built from it
        return None
    config = given.config
    return Step(
        stage="export_onnx",
        name=artifact_name(given, component),
        action="tasks.actions.export_onnx.action:run",
        inputs=sources(given, component),
        outputs={"onnx": given.paths.onnx(component.name, config.precision.name)},
        params={
            "component": declaration(given, component),
            "precision": plain(config.precision),
            "onnx": _settings(config),
        },
        records=records(given, component),
        libraries=("torch", "onnx", "onnxscript", "onnxruntime", "onnx-ir"),
    )


def _settings(config: Config) -> dict[str, Any]:
    settings: dict[str, Any] = plain(config.onnx)
    if config.onnx.exporter is Exporter.auto:
        settings["exporter"] = exporter_for(config.onnx.opset)
    if config.precision.name == "fp32":
        settings["keep_fp32"] = []  # an fp32 graph keeps all of its operators
    return settings
