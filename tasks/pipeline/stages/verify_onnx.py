"""`verify_onnx`: an ONNX file compared with the original module."""

from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.stage import Earlier
from tasks.pipeline.step import Step
from tasks.pipeline.verification import verification
from tasks.settings.model_schema import Component

RUNTIME = "tasks.runtimes.onnxruntime_.session:open_artifact"
CONTENTS = "tasks.runtimes.onnxruntime_.contents:contents"


def step(given: GraphInputs, component: Component, earlier: Earlier) -> Step | None:
    if not (export := earlier.get("export_onnx")):
        return None
    return verification(
        given,
        component,
        export,
        stage="verify_onnx",
        runtime=RUNTIME,
        contents=CONTENTS,
        libraries=("onnxruntime", "onnx"),
    )
