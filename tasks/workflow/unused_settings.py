"""Finds the settings that were typed and change no step: nothing that is asked for may be dropped in silence.

A setting has an effect if another value of it would give other steps. What is skipped here is no step, unless another
machine could do it: one command line serves a build machine and the one with the GPU.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from enum import Enum
from typing import Any

from tasks.errors import UserError
from tasks.pipeline.graph import build
from tasks.pipeline.graph_inputs import GraphInputs, Machine
from tasks.pipeline.stage import Stage
from tasks.pipeline.step import Step
from tasks.settings.schema import Config

# What acts before the graph is built or beside it: files that are looked up, and which steps a command runs.
NOT_IN_STEPS = ("model.checkpoints", "model.parts", "verify.auto")
Graph = tuple[GraphInputs, Sequence[Step]]
UNFIT = (UserError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def unused_settings(words: Iterable[str], graphs: Iterable[GraphInputs], stages: Sequence[Stage]) -> list[str]:
    """A problem, in one line, for each of the words that changes no step of any configuration."""
    able = [replace(given, machine=_able(given.machine)) for given in graphs]
    built = [(given, build(given, stages)) for given in able]
    keys = dict.fromkeys(word.lstrip("+~").partition("=")[0] for word in words)
    return [
        _why_unused(key, built, stages)
        for key in keys
        if not key.startswith(NOT_IN_STEPS) and not any(_has_effect(key, graph, stages) for graph in built)
    ]


def _able(machine: Machine) -> Machine:
    return replace(machine, build_obstacle=None, runtime_obstacle=None, transformers=True)


def _has_effect(key: str, graph: Graph, stages: Sequence[Stage]) -> bool:
    """Whether another value gives other steps; where no other value is known or fits, it is taken to."""
    tried = False
    for other in _with_other_values(key, graph, stages):
        if _done(other) != _done(graph[1]):
            return True
        tried = True
    return not tried


def _done(steps: Iterable[Step]) -> list[Step]:
    return [step for step in steps if not step.skip]


def _why_unused(key: str, graphs: Sequence[Graph], stages: Sequence[Stage]) -> str:
    for graph in graphs:
        for other in _with_other_values(key, graph, stages):
            for step in graph[1]:
                if step.skip and step not in other:
                    return f"{key}: has no effect, because {step.task} is skipped: {step.skip.text}"
    models = ", ".join(dict.fromkeys(given.config.model.name for given, _ in graphs))
    precisions = ", ".join(dict.fromkeys(given.config.precision.name for given, _ in graphs))
    return f"{key}: has no effect on {models} in {precisions}; leave it out"


def _with_other_values(key: str, graph: Graph, stages: Sequence[Stage]) -> Iterator[list[Step]]:
    """The steps with other values of a setting that fit; nothing where none is known."""
    given, _ = graph
    with suppress(*UNFIT):  # there is no such setting any more
        for other in _other_configs(given.config, key.split(".")):
            with suppress(*UNFIT):
                yield build(replace(given, config=other), stages)


def _other_configs(config: Config, path: Sequence[str]) -> Iterator[Config]:
    """Copies of a configuration with another value of one setting; none where no other value is known."""
    value = _at(config, path)
    for other in _others(value):
        copy = deepcopy(config)
        holder, name = _at(copy, path[:-1]), path[-1]
        if isinstance(holder, dict):
            holder[name] = other
        else:
            setattr(holder, name, other)
        yield copy


def _at(settings: Any, path: Sequence[str]) -> Any:
    for name in path:
        settings = settings.get(name) if isinstance(settings, dict) else getattr(settings, name, None)
    return settings


def _others(value: Any) -> list[Any]:
    match value:
        case Enum():
            return [other for other in type(value) if other is not value]
        case bool():
            return [not value]
        case int() | float():
            return [value + 1, value / 2]  # the largest floats stay what they are if 1 is added
        case str():
            return [f"{value}x"]
        case list() | dict() if value:
            return [type(value)()]
    return []
