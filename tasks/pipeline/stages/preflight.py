"""`preflight`: whether TensorRT could build a plan of an ONNX file, without a GPU."""

from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.plan_params import PLANS_OFF, plan_params
from tasks.pipeline.stage import Earlier
from tasks.pipeline.step import Step
from tasks.settings.model_schema import Component, Format
from tasks.settings.schema import Mode

CHECKED = ("profile", "profiles")  # the settings of TensorRT that preflight checks


def step(given: GraphInputs, component: Component, earlier: Earlier) -> Step | None:
    if Format.tensorrt not in component.formats:
        return None
    export = earlier["export_onnx"]
    params = plan_params(given, component)
    return Step(
        stage="preflight",
        name=export.name,
        action="tasks.actions.preflight.action:run",
        inputs=dict(export.outputs),
        outputs={"report": given.paths.preflight(export.outputs["onnx"])},
        params=params | {"tensorrt": {name: params["tensorrt"][name] for name in CHECKED}},
        libraries=("onnx", "onnxruntime"),
        skip=PLANS_OFF if given.config.tensorrt.mode is Mode.off else None,
    )
