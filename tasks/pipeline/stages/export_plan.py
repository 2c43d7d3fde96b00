"""The steps around TensorRT plans: try before the build, build, verify. Pure."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.paths import timing_caches
from tasks.pipeline.component_params import Context, declaration
from tasks.pipeline.stages.export_onnx import verification
from tasks.pipeline.step import Skip, Step
from tasks.plain_data import plain
from tasks.settings.schema import Component, Mode

OFF = Skip("tensorrt.mode=off: no plans are wanted", "Say tensorrt.mode=auto", refuses=True)

# Settings of TensorRT that decide whether, where and how fast, not what is in the file.
NOT_IN_A_PLAN = ("mode", "timing_cache", "concurrency")
TRIED_BEFORE = ("profile", "profiles")  # those that preflight tries


def preflight(context: Context, component: Component, export: Step) -> Step:
    return Step(
        stage="preflight",
        name=export.name,
        action="tasks.actions.preflight.action:run",
        inputs=dict(export.outputs),
        outputs={"report": context.paths.preflight(export.outputs["onnx"])},
        params=_preflight_params(context, component),
        libraries=("onnx", "onnxruntime-gpu"),
        skip=OFF if context.config.tensorrt.mode is Mode.off else None,
    )


def export_plan(context: Context, component: Component, export: Step, tried: Step) -> Step:
    config, machine = context.config, context.machine
    return Step(
        stage="export_plan",
        name=export.name,
        action="tasks.actions.build_plan.action:run",
        inputs=dict(export.outputs),
        outputs={"plan": context.paths.plan(component.name, config.precision.name, machine.gpu)},
        params=_plan_params(context, component) | {"gpu": machine.gpu, "tensorrt_version": machine.tensorrt},
        local={"timing_cache": config.tensorrt.timing_cache or str(timing_caches(Path(config.artifacts)))},
        after=(tried.task,),
        elsewhere=context.paths.plan(component.name, config.precision.name, "*").name,
        skip=_skip_if(context, machine.plan_obstacle),
    )


def verify_plan(context: Context, component: Component, build: Step) -> Step:
    step = verification(context, component, build, runtime="tasks.runtimes.tensorrt_.engine:open_artifact")
    return replace(
        step,
        action="tasks.actions.verify.plan:run",
        params={**step.params, "tensorrt": build.params["tensorrt"], "tensorrt_version": context.machine.tensorrt},
        local={"concurrency": context.config.tensorrt.concurrency},
        skip=_skip_if(context, context.machine.run_obstacle),
    )


def _plan_params(context: Context, component: Component) -> dict[str, Any]:
    settings = plain(context.config.tensorrt)
    for name in NOT_IN_A_PLAN:
        del settings[name]
    return {
        "component": declaration(context, component),
        "precision": plain(context.config.precision),
        "tensorrt": settings,
    }


def _preflight_params(context: Context, component: Component) -> dict[str, Any]:
    params = _plan_params(context, component)
    return params | {"tensorrt": {name: params["tensorrt"][name] for name in TRIED_BEFORE}}


def _skip_if(context: Context, obstacle: tuple[str, str] | None) -> Skip | None:
    """What stands in the way of plans is an error only where they are required."""
    if context.config.tensorrt.mode is Mode.off:
        return OFF
    if obstacle is None or context.config.tensorrt.mode is Mode.required:
        return None
    return Skip(*obstacle, refuses=True)
