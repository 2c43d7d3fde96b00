"""`train`: checkpoints of a part by our own training, unless checkpoints of it are given."""

from tasks.pipeline.component_params import records_of
from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.stage import Earlier
from tasks.pipeline.step import Step
from tasks.plain_data import plain


def step(given: GraphInputs, part: str, _earlier: Earlier) -> Step | None:
    training = given.config.model.training
    if training is None or not given.is_trained(part):
        return None
    checkpoints = [given.paths.checkpoint(epoch) for epoch in range(given.config.train.max_epoch)]
    return Step(
        stage="train",
        name=f"{given.config.model.name}/{part}",
        action="tasks.actions.train:run",
        inputs={"config": given.model_yaml},
        outputs={file.name: file for weights in checkpoints for file in (weights, weights.with_suffix(".yaml"))},
        params={
            "train": plain(given.config.train),
            "part": part,
            "loader": training.loader,
            "data": training.data,
        },
        records=records_of(given, part),
        libraries=("torch",),
    )
