"""`train`: checkpoints of a part by our own training, unless checkpoints of it are given."""

from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.stage import Earlier
from tasks.pipeline.step import Step
from tasks.plain_data import plain


def step(graph: GraphInputs, part: str, _earlier: Earlier) -> Step | None:
    training = graph.config.model.training
    if training is None or not graph.is_trained(part):
        return None
    checkpoints = [graph.paths.checkpoint(epoch) for epoch in range(graph.config.train.max_epoch)]
    return Step(
        stage="train",
        name=f"{graph.config.model.name}/{part}",
        action="tasks.actions.train:run",
        inputs={"config": graph.model_yaml},
        outputs={file.name: file for weights in checkpoints for file in (weights, weights.with_suffix(".yaml"))},
        params={
            "train": plain(graph.config.train),
            "part": part,
            "loader": training.loader,
            "data": training.data,
        },
        libraries=("torch",),
    )
