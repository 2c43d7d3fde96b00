"""`export_vllm`: a language model as the folder that vLLM loads."""

from tasks.pipeline.component_params import identity, records, sources
from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.stage import Earlier
from tasks.pipeline.step import Skip, Step
from tasks.settings.model_schema import Component, Format

FILES = ("config.json", "generation_config.json", "model.safetensors")


def step(given: GraphInputs, component: Component, _earlier: Earlier) -> Step | None:
    """One folder whatever the precision: vLLM is given bf16."""
    if Format.vllm not in component.formats:
        return None
    folder = given.paths.vllm
    return Step(
        stage="export_vllm",
        name=f"{given.config.model.name}/{component.name}",
        action="tasks.actions.export_vllm:run",
        inputs=sources(given, component),
        outputs={name: folder / name for name in FILES},
        params={"component": identity(component)},
        records=records(given, component),
        libraries=("torch", "transformers", "safetensors"),
        folder=folder,
        skip=_skip(given, component),
    )


def _skip(given: GraphInputs, component: Component) -> Skip | None:
    missing = [file for file in component.files.values() if file in given.absent]
    if missing:
        reason = f"the model folder has no {', '.join(missing)}"
        return Skip(reason, "Copy or download it", error_if_selected=True)
    if not given.machine.transformers:
        return Skip("transformers is not installed", "Run pip install 'voxkiln[llm]'", error_if_selected=True)
    return None
