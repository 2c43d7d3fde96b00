"""`average`: the mean of a part's best checkpoints."""

from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.stage import Earlier
from tasks.pipeline.step import Skip, Step
from tasks.plain_data import plain


def step(graph: GraphInputs, part: str, earlier: Earlier) -> Step:
    """Its inputs are the given checkpoints with their sidecars, or those that training makes."""
    trained = earlier.get("train")
    files = list(trained.outputs.values()) if trained else list(graph.checkpoints.get(part, ()))
    return Step(
        stage="average",
        name=f"{graph.config.model.name}/{part}",
        action="tasks.actions.average:run",
        inputs={file.name: file for file in files},
        outputs={"averaged": graph.paths.averaged(part)},
        params={"average": plain(graph.config.average)},
        libraries=("torch",),
        skip=None if files else _nothing_to_average(graph, part),
    )


def _nothing_to_average(graph: GraphInputs, part: str) -> Skip:
    instead = "the model folder has none" if part in graph.absent else "that of the model folder is used"
    return Skip(
        f"no checkpoints given for {graph.config.model.parts[part]}; {instead}",
        f"Give a folder of checkpoints: model.checkpoints.{part}=DIR",
    )
