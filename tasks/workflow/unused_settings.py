"""Finds the settings that were typed and change no step: nothing that is asked for may be dropped in silence.

A setting has an effect if another value of it would give other steps.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from enum import Enum
from itertools import zip_longest
from typing import Any

from tasks.errors import UserError
from tasks.pipeline.graph import each_step
from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.stage import Stage
from tasks.pipeline.step import Step
from tasks.settings.schema import Config

# What acts before the graph is built or beside it: files that are looked up, and which steps a command runs, and when.
NOT_IN_STEPS = ("model.checkpoints", "model.parts", "verify.auto", "memory_gib")
BREAKS = (UserError, AttributeError, LookupError, TypeError, ValueError)  # a value that does not fit has an effect


Graph = tuple[GraphInputs, Sequence[Step]]


def unused_settings(words: Iterable[str], graphs: Sequence[Graph], stages: Sequence[Stage]) -> list[str]:
    """A problem, in one line, for each of the words that changes no step of any configuration.

    Args:
        graphs: each configuration with the steps that it gives.
    """
    keys = dict.fromkeys(word.lstrip("+~").partition("=")[0] for word in words)
    models = ", ".join(dict.fromkeys(given.config.model.name for given, _ in graphs))
    return [
        f"{key}: has no effect on {models} in {_precisions(graphs)}; leave it out"
        for key in keys
        if not key.startswith(NOT_IN_STEPS) and not any(_has_effect(key, graph, stages) for graph in graphs)
    ]


def _precisions(graphs: Sequence[Graph]) -> str:
    return ", ".join(dict.fromkeys(given.config.precision.name for given, _ in graphs))


def _has_effect(key: str, graph: Graph, stages: Sequence[Stage]) -> bool:
    given, steps = graph
    others = list(_with_other_values(given.config, key.split(".")))
    try:
        return not others or any(_gives_others(replace(given, config=other), steps, stages) for other in others)
    except BREAKS:
        return True


def _gives_others(given: GraphInputs, steps: Sequence[Step], stages: Sequence[Stage]) -> bool:
    """Whether a configuration has other steps than these; most that do are known by one of the first."""
    return any(one != other for one, other in zip_longest(each_step(given, stages), steps))


def _with_other_values(config: Config, path: Sequence[str]) -> Iterator[Config]:
    """Copies of a configuration with another value of one setting; none where no other value is known."""
    value = _at(config, path)
    for other in _others(value):
        yield _with(config, path, other)


def _with(settings: Any, path: Sequence[str], value: Any) -> Any:
    """Settings with another value at a path; what is beside the path is shared with the given ones."""
    if not path:
        return value
    changed = {path[0]: _with(_at(settings, path[:1]), path[1:], value)}
    return settings | changed if isinstance(settings, dict) else replace(settings, **changed)


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
