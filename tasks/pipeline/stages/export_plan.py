"""`export_plan`: a TensorRT plan for the GPU of this machine."""

from pathlib import Path

from tasks.paths import timing_caches
from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.plan_params import plan_params, plan_skip
from tasks.pipeline.stage import Earlier
from tasks.pipeline.step import Step
from tasks.settings.model_schema import Component, Format


def step(given: GraphInputs, component: Component, earlier: Earlier) -> Step | None:
    if Format.tensorrt not in component.formats:
        return None
    config, machine, export = given.config, given.machine, earlier["export_onnx"]
    return Step(
        stage="export_plan",
        name=export.name,
        action="tasks.actions.build_plan.action:run",
        inputs=dict(export.outputs),
        outputs={"plan": given.paths.plan(component.name, config.precision.name, machine.gpu)},
        params=plan_params(given, component) | {"gpu": machine.gpu, "tensorrt_version": machine.tensorrt},
        local={"timing_cache": config.tensorrt.timing_cache or str(timing_caches(Path(config.artifacts)))},
        after=(earlier["preflight"].task,),
        reproducible=False,
        elsewhere=given.paths.plan(component.name, config.precision.name, "*").name,
        skip=plan_skip(given, machine.build_obstacle),
    )
