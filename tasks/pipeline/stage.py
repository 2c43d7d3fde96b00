"""One stage of the workflow: a doit task, and how it makes its step for one part or component of a model."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tasks.errors import ConfigError
from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.step import Step

Earlier = Mapping[str, Step]  # stage -> the step it has made for the same part or component


class Per(Enum):
    """What a stage makes one step for."""

    part = "part"  # a weights file of the model
    component = "component"


class Group(Enum):
    """Which group tasks run a stage; without one it runs only where another step needs it or the user selects it."""

    export = "export"  # export_all
    verify = "verify"  # verify_all, and export_all unless verify.auto=false


@dataclass(frozen=True)
class Stage:
    """A row of the table of stages.

    Attributes:
        name: the doit task.
        summary: what `doit list` and the README show.
        step: called with the graph's inputs, a part's name or a component, and the earlier steps for the same one;
            returns None where the stage has nothing to do.
    """

    name: str
    summary: str
    step: Callable[[GraphInputs, Any, Earlier], Step | None]
    per: Per = Per.component
    group: Group | None = None


def names(stages: Iterable[Stage], *groups: Group) -> list[str]:
    """The stages in some of the groups."""
    return [stage.name for stage in stages if stage.group in groups]


def check_names(stages: Iterable[Stage]) -> None:
    """Every stage has a name of its own.

    Raises:
        ConfigError: naming each one that occurs more than once.
    """
    listed = [stage.name for stage in stages]
    repeated = sorted({name for name in listed if listed.count(name) > 1})
    if repeated:
        raise ConfigError([f"stage {name}: named {listed.count(name)} times in the table" for name in repeated])
