"""`export_jit`: a component as a TorchScript file."""

from tasks.pipeline.component_params import artifact_name, identity, records, sources
from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.stage import Earlier
from tasks.pipeline.step import Step
from tasks.plain_data import plain
from tasks.settings.model_schema import Component, Format
from tasks.settings.schema import Target


def step(given: GraphInputs, component: Component, _earlier: Earlier) -> Step | None:
    if Format.torchscript not in component.formats:
        return None
    config = given.config
    target = config.torchscript.target
    if target is Target.auto:
        target = Target.cuda if given.machine.cuda else Target.cpu
    return Step(
        stage="export_jit",
        name=artifact_name(given, component),
        action="tasks.actions.export_torchscript.action:run",
        inputs=sources(given, component),
        outputs={"torchscript": given.paths.torchscript(component.name, config.precision.name)},
        params={
            "component": identity(component) | {"kept_methods": list(component.kept_methods)},
            "precision": plain(config.precision),
            "torchscript": plain(config.torchscript) | {"target": target.value},
        },
        records=records(given, component),
        libraries=("torch",),
    )
