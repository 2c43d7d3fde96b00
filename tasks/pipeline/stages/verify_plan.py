"""`verify_plan`: a TensorRT plan compared with the original module over its profiles, and measured."""

from dataclasses import replace

from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.plan_params import plan_skip
from tasks.pipeline.stage import Earlier
from tasks.pipeline.step import Step
from tasks.pipeline.verification import verification
from tasks.settings.model_schema import Component

RUNTIME = "tasks.runtimes.tensorrt_.engine:open_artifact"
# A version-compatible plan holds code for the host, which TensorRT runs only for a caller that trusts the file.
TRUSTED_RUNTIME = "tasks.runtimes.tensorrt_.trusted_engine:open_artifact"


def step(given: GraphInputs, component: Component, earlier: Earlier) -> Step | None:
    if not (build := earlier.get("export_plan")):
        return None
    runtime = TRUSTED_RUNTIME if given.config.tensorrt.version_compatible else RUNTIME
    compared = verification(given, component, build, stage="verify_plan", runtime=runtime)
    return replace(
        compared,
        action="tasks.actions.verify.plan:run",
        params={
            **compared.params,
            "tensorrt": build.params["tensorrt"],
            "tensorrt_version": given.machine.tensorrt,
        },
        local={"concurrency": given.config.tensorrt.concurrency},
        skip=plan_skip(given, given.machine.runtime_obstacle),
    )
