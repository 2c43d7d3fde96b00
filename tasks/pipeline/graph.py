"""The workflow as a value: one configuration -> the list of steps. Pure; this is the DAG.

Edges are file names: a step that reads what another writes comes after it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tasks.errors import ConfigError
from tasks.pipeline.component_params import Context, Machine, candidates, training
from tasks.pipeline.stages.export_onnx import export_jit, export_onnx, export_vllm, record, verification, verify_vllm
from tasks.pipeline.stages.export_plan import export_plan, preflight, verify_plan
from tasks.pipeline.step import Skip, Step
from tasks.plain_data import flat, plain
from tasks.settings.schema import Component, Config, Format

EXPORT_STAGES = ("export_jit", "export_onnx", "export_plan", "export_vllm")
NAMED_AT_MOST = 4  # differences between two ways to build a step
VERIFY_STAGES = ("verify_jit", "verify_onnx", "verify_plan", "verify_vllm")


def plan(
    config: Config,
    *,
    machine: Machine,
    checkpoints: Mapping[str, Sequence[Path]],
    absent: Collection[str] = (),
) -> list[Step]:
    """The steps of one configuration, inputs before what reads them.

    Args:
        config: checked settings with absolute paths.
        machine: what this machine can do.
        checkpoints: for each part with a folder of checkpoints, the files to average with their sidecars.
        absent: parts, and further files of components, that the model folder does not have.
    """
    context = Context(config, machine, checkpoints, absent)
    used = {component.part for component in config.model.components.values()}
    steps = [
        *training(context),
        *(step for part in config.model.parts if part in used for step in _average(context, part)),
    ]
    for component in config.model.components.values():
        skip = _skip_of(context, component)
        steps += (replace(step, skip=skip) if skip else step for step in _exports(context, component))
    return steps


def merge(plans: Sequence[Sequence[Step]]) -> list[Step]:
    """The union of the plans of a sweep.

    Raises:
        ConfigError: if two of them would build one step differently, with both values.
    """
    merged: dict[str, Step] = {}
    problems = []
    for step in (step for steps in plans for step in steps):
        other = merged.setdefault(step.task, step)
        if other != step:
            problems.append(f"{step.task}: the sweep builds it in two ways: {_difference(other, step)}")
    if problems:
        raise ConfigError([*dict.fromkeys(problems), "Sweep over model and precision; run other settings one by one."])
    return list(merged.values())


def _difference(one: Step, other: Step) -> str:
    a, b = (
        flat({**step.params, "inputs": step.inputs, "outputs": step.outputs, **step.local}) for step in (one, other)
    )
    differing = [f"{key} {a.get(key)} and {b.get(key)}" for key in {**a, **b} if a.get(key) != b.get(key)]
    return ", ".join(differing[:NAMED_AT_MOST]) + (", ..." if len(differing) > NAMED_AT_MOST else "")


def _exports(context: Context, component: Component) -> Iterator[Step]:
    if component.recorder and context.config.verify.real_inputs:
        yield record(context, component, component.recorder)
    if Format.torchscript in component.formats:
        yield (export := export_jit(context, component))
        yield verification(context, component, export, runtime="tasks.runtimes.torchscript:open_artifact")
    if Format.onnx in component.formats or Format.tensorrt in component.formats:
        yield (export := export_onnx(context, component))
        yield verification(context, component, export, runtime="tasks.runtimes.onnxruntime_.session:open_artifact")
        if Format.tensorrt in component.formats:
            yield (tried := preflight(context, component, export))
            yield (build := export_plan(context, component, export, tried))
            yield verify_plan(context, component, build)
    if Format.vllm in component.formats:
        yield (export := export_vllm(context, component))
        yield verify_vllm(context, component, export)


def _average(context: Context, part: str) -> Iterator[Step]:
    files = candidates(context, part)
    skip = None
    if not files:
        file = context.config.model.parts[part]
        instead = "the model folder has none" if part in context.absent else "that of the model folder is used"
        skip = Skip(
            f"no checkpoints given for {file}; {instead}",
            f"Give a folder of checkpoints: model.checkpoints.{part}=DIR",
        )
    yield Step(
        stage="average",
        name=f"{context.config.model.name}/{part}",
        action="tasks.actions.average:run",
        inputs={file.name: file for file in files},
        outputs={"averaged": context.paths.averaged(part)},
        params={"average": plain(context.config.average)},
        libraries=("torch",),
        skip=skip,
    )


def _skip_of(context: Context, component: Component) -> Skip | None:
    """Why nothing is made of a component, whatever the format."""
    allowed = component.precisions
    if allowed and context.config.precision.name not in allowed:
        names = " and ".join(allowed)
        reason = f"{component.name} is exported in {names} only: {component.precisions_reason}"
        return Skip(reason, f"Say precision={allowed[0]}", refuses_by_name=True)
    if component.part in context.absent and not candidates(context, component.part):
        file = context.config.model.parts[component.part]
        return Skip(f"the model folder has no {file}", f"Put {file} into it", refuses_by_name=True)
    return None
