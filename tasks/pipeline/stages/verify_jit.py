"""`verify_jit`: a TorchScript file compared with the original module."""

from dataclasses import replace

from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.stage import Earlier
from tasks.pipeline.step import Step
from tasks.pipeline.verification import verification
from tasks.plain_data import plain
from tasks.settings.model_schema import Component

RUNTIME = "tasks.runtimes.torchscript:open_artifact"
CONTENTS = "tasks.runtimes.torchscript:contents"


def step(given: GraphInputs, component: Component, earlier: Earlier) -> Step | None:
    """A method that takes a sequence in chunks is in such a file only, and verified there."""
    if not (export := earlier.get("export_jit")):
        return None
    compared = verification(given, component, export, stage="verify_jit", runtime=RUNTIME, contents=CONTENTS)
    if component.chunked is None:
        return compared
    declared = compared.params["component"] | {"chunked": plain(component.chunked)}
    return replace(compared, params={**compared.params, "component": declared})
