"""Steps of the recorded models as the settings of a command line give them, and their jobs."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tasks.job import Job
from tasks.pipeline.graph import build
from tasks.pipeline.graph_inputs import GraphInputs, Machine
from tasks.pipeline.stages.table import STAGES
from tasks.pipeline.step import Step
from tasks.settings.compose import load
from tasks.settings.number_formats import BY_NAME
from tests.support.golden_cases import GOLDEN

MODELS = {"cosyvoice1": "cosyvoice", "cosyvoice2": "cosyvoice2", "cosyvoice3": "cosyvoice3"}  # recorded folder -> model
FAMILIES = tuple(MODELS)
ESTIMATOR = "flow.decoder.estimator"
NOTHING: Mapping[str, Any] = MappingProxyType({})


def steps_of(
    family: str, component: str, *words: str, artifacts: Path = Path("artifacts"), folder: Path | None = None
) -> dict[str, Step]:
    """Each stage's step for one component of a model, by default that of the recorded folder."""
    steps = all_steps_of(family, *words, artifacts=artifacts, folder=folder).values()
    name = re.compile(rf"[^/]+/{re.escape(component)}(\.({'|'.join(BY_NAME)}))?")
    return {step.stage: step for step in steps if name.fullmatch(step.name)}


def all_steps_of(
    family: str, *words: str, artifacts: Path = Path("artifacts"), folder: Path | None = None
) -> dict[str, Step]:
    """The steps of a model by their tasks."""
    words = (f"model={MODELS[family]}", f"model.dir={folder or GOLDEN / family}", f"artifacts={artifacts}", *words)
    (config,) = load([*words], workdir=GOLDEN)
    return {step.task: step for step in build(GraphInputs(config, Machine(), {}), STAGES)}


def job_of(
    step: Step,
    *,
    inputs: Mapping[str, Path] = NOTHING,
    outputs: Mapping[str, Path] = NOTHING,
    params: Mapping[str, Any] = NOTHING,
) -> Job:
    """The job of a step, with some files and params in place of its own and without what belongs to one machine."""
    return Job(
        step.task, step.action, {**step.inputs, **inputs}, {**step.outputs, **outputs}, {**step.params, **params}
    )
