"""`verify_vllm`: the folder for vLLM loaded back and its logits compared with the original's."""

from tasks.pipeline.component_params import identity, records, sources
from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.stage import Earlier
from tasks.pipeline.step import Step
from tasks.plain_data import plain
from tasks.settings.model_schema import Component


def step(given: GraphInputs, component: Component, earlier: Earlier) -> Step | None:
    if not (export := earlier.get("export_vllm")):
        return None
    return Step(
        stage="verify_vllm",
        name=export.name,
        action="tasks.actions.verify.vllm:run",
        inputs={**sources(given, component), **{f"vllm/{name}": path for name, path in export.outputs.items()}},
        outputs={"report": given.paths.report(given.paths.vllm)},
        params={
            "component": identity(component),
            "vllm": plain(given.config.vllm),
            "device": given.verification_device,
        },
        records=records(given, component),
        libraries=("torch", "transformers", "safetensors"),
        skip=export.skip,
    )
