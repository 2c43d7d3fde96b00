"""`record`: the inputs that the model itself gives a component during inference, for verification to try."""

from tasks.job import RECORDED
from tasks.pipeline.component_params import records, sources
from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.stage import Earlier
from tasks.pipeline.step import Step
from tasks.plain_data import plain
from tasks.settings.model_schema import Component


def step(given: GraphInputs, component: Component, _earlier: Earlier) -> Step | None:
    """One file whatever the precision: the original model runs in fp32."""
    if not component.recorder or not given.config.verify.real_inputs:
        return None
    return Step(
        stage="record",
        name=f"{given.config.model.name}/{component.name}",
        action="tasks.actions.record:run",
        inputs=sources(given, component),
        outputs={RECORDED: given.paths.recorded(component.name)},
        params={
            "component": {"name": component.name, "part": component.part, "inputs": plain(component.inputs)},
            "recorder": component.recorder,
        },
        records=records(given, component),
        libraries=("torch",),
    )
