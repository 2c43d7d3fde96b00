"""`average`: the mean of a part's best checkpoints."""

from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.stage import Earlier
from tasks.pipeline.step import Skip, Step
from tasks.plain_data import plain


def step(given: GraphInputs, part: str, earlier: Earlier) -> Step:
    """Its inputs are the given checkpoints with their sidecars, or those that training makes."""
    trained = earlier.get("train")
    files = list(trained.outputs.values()) if trained else list(given.checkpoints.get(part, ()))
    return Step(
        stage="average",
        name=f"{given.config.model.name}/{part}",
        action="tasks.actions.average:run",
        inputs={file.name: file for file in files},
        outputs={"averaged": given.paths.averaged(part)},
        params={"average": plain(given.config.average)},
        libraries=("torch",),
        local={"left_out": list(given.left_out.get(part, ()))},
        skip=None if files else _nothing_to_average(given, part),
    )


def _nothing_to_average(given: GraphInputs, part: str) -> Skip:
    instead = "the model folder has none" if part in given.absent else "that of the model folder is used"
    return Skip(
        f"no checkpoints given for {given.config.model.parts[part]}; {instead}",
        f"Give a folder of checkpoints: model.checkpoints.{part}=DIR",
    )
