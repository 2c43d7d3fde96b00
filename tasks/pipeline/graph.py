"""The graph of steps as a value: one configuration -> the list of its steps. Pure.

Edges are file names: a step that reads what another writes comes after it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tasks.errors import ConfigError, listed
from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.stage import Per, Stage, check_names
from tasks.pipeline.step import Skip, Step
from tasks.plain_data import flat
from tasks.settings.model_schema import Component

NAMED_AT_MOST = 4  # differences between two ways to build a step


def build(given: GraphInputs, stages: Sequence[Stage]) -> list[Step]:
    """The steps of one configuration, inputs before what reads them.

    Raises:
        ConfigError: two stages have one name.
    """
    check_names(stages)
    return list(each_step(given, stages))


def each_step(given: GraphInputs, stages: Sequence[Stage]) -> Iterator[Step]:
    """The steps of one configuration, each made when it is asked for."""
    components = given.config.model.components.values()
    used = {component.part for component in components}
    for part in given.config.model.parts:
        if part in used:
            yield from _steps(given, part, [stage for stage in stages if stage.per is Per.part])
    for component in components:
        made = _steps(given, component, [stage for stage in stages if stage.per is Per.component])
        skip = _skip_of(given, component)
        yield from (replace(step, skip=skip) if skip else step for step in made)


def merge(configurations: Sequence[Sequence[Step]]) -> list[Step]:
    """The union of the steps of a sweep's configurations.

    Raises:
        ConfigError: if two of them would build one step differently, with both values.
    """
    merged: dict[str, Step] = {}
    problems = []
    for step in (step for steps in configurations for step in steps):
        other = merged.setdefault(step.task, step)
        if other != step:
            problems.append(f"{step.task}: the sweep builds it in two ways: {_difference(other, step)}")
    if problems:
        raise ConfigError([*dict.fromkeys(problems), "Sweep over model and precision; run other settings one by one."])
    return list(merged.values())


def needed_by(steps: Sequence[Step]) -> dict[str, set[str]]:
    """For each step the tasks that end before it starts: those that it comes after, and the makers of its inputs."""
    makers = {path: step.task for step in steps for path in step.outputs.values()}
    return {
        step.task: {*step.after, *(makers[path] for path in step.inputs.values() if path in makers)} for step in steps
    }


def _steps(given: GraphInputs, subject: str | Component, stages: Sequence[Stage]) -> Iterator[Step]:
    earlier: dict[str, Step] = {}
    for stage in stages:
        if step := stage.step(given, subject, earlier):
            earlier[stage.name] = step
            yield step


def _difference(one: Step, other: Step) -> str:
    a, b = (
        flat({**step.params, "inputs": step.inputs, "outputs": step.outputs, **step.local}) for step in (one, other)
    )
    differing = [f"{key} {a.get(key)} and {b.get(key)}" for key in {**a, **b} if a.get(key) != b.get(key)]
    return listed(differing, NAMED_AT_MOST)


def _skip_of(given: GraphInputs, component: Component) -> Skip | None:
    """Why nothing is made of a component, whatever the format."""
    allowed = component.precisions
    if allowed and given.config.precision.name not in allowed:
        reason = f"{component.name} is exported in {' and '.join(allowed)} only: {component.precisions_reason}"
        return Skip(reason, f"Set precision={allowed[0]}", error_if_named=True)
    if component.part in given.absent and not given.is_averaged(component.part):
        file = given.config.model.parts[component.part]
        return Skip(
            f"the model folder has no {file}",
            f"Put {file} into it, or name another file: model.parts.{component.part}=FILE",
            error_if_named=True,
        )
    return None
