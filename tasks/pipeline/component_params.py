"""One configuration with this machine and the user's files: what every stage of the plan is made from. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.paths import ArtifactPaths
from tasks.pipeline.step import Step
from tasks.plain_data import plain
from tasks.settings.schema import Component, Config, Device


@dataclass(frozen=True)
class Machine:
    """What the plan needs to know of this machine."""

    cuda: bool = False  # PyTorch can use a GPU
    gpu: str = "nogpu"  # name of the GPU in file names
    tensorrt: str = "not installed"
    plan_obstacle: tuple[str, str] | None = None  # reason and remedy; None: TensorRT plans can be built
    run_obstacle: tuple[str, str] | None = None  # the same for running them through PyTorch
    transformers: bool = True  # the library is installed


@dataclass(frozen=True)
class Context:
    """One configuration with what is derived from it once."""

    config: Config
    machine: Machine
    checkpoints: Mapping[str, Sequence[Path]]
    absent: Collection[str]
    paths: ArtifactPaths = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", ArtifactPaths(Path(self.config.artifacts), self.config.model.name))


def training(context: Context) -> Iterator[Step]:
    """The step that trains a part, unless checkpoints of it are given."""
    model, how = context.config.model, context.config.model.training
    if how and how.part not in context.checkpoints:
        checkpoints = [context.paths.checkpoint(epoch) for epoch in range(context.config.train.max_epoch)]
        files = [file for pt in checkpoints for file in (pt, pt.with_suffix(".yaml"))]
        yield Step(
            stage="train",
            name=f"{model.name}/{how.part}",
            action="tasks.actions.train:run",
            inputs={"config": model_config(context)},
            outputs={file.name: file for file in files},
            params={
                "train": plain(context.config.train),
                "part": how.part,
                "loader": how.loader,
                "data": how.data,
            },
            libraries=("torch",),
        )


def candidates(context: Context, part: str) -> list[Path]:
    """The checkpoints of a part with their sidecars: those given, or those that training makes."""
    if part in context.checkpoints:
        return list(context.checkpoints[part])
    how = context.config.model.training
    return [file for step in training(context) for file in step.outputs.values()] if how and how.part == part else []


def artifact_name(context: Context, component: Component) -> str:
    return f"{context.config.model.name}/{component.name}.{context.config.precision.name}"


def sources(context: Context, component: Component) -> dict[str, Path]:
    """What a component is built from: the model's YAML, the weights of its part, averaged if they can be, its files."""
    averaged = candidates(context, component.part)
    weights = context.paths.averaged(component.part) if averaged else _in_folder(context, component.part)
    files = {name: Path(context.config.model.dir or "") / file for name, file in component.files.items()}
    return {"config": model_config(context), "weights": weights, **files}


def _in_folder(context: Context, part: str) -> Path:
    model = context.config.model
    return Path(model.dir or "") / model.parts[part]


def model_config(context: Context) -> Path:
    return Path(context.config.model.dir or "") / context.config.model.config


def identity(component: Component) -> dict[str, Any]:
    return {
        "name": component.name,
        "part": component.part,
        "loader": component.loader,
        "options": plain(component.options),
    }


def declaration(context: Context, component: Component) -> dict[str, Any]:
    """The declaration with the axes that its tensors really have, so that another axis changes nothing here."""
    shapes = [tensor.shape for tensor in component.inputs.values()]
    names = {size for shape in shapes for size in shape}
    return identity(component) | {
        "inputs": plain(component.inputs),
        "outputs": plain(component.outputs),
        "argument_order": [*component.inputs, *component.outputs],  # a receipt does not keep that of a mapping
        "axes": {name: plain(axis) for name, axis in context.config.model.axes.items() if name in names},
    }


def device(context: Context) -> str:
    """Where artifacts are run to verify them."""
    wanted = context.config.verify.device
    if wanted is Device.auto:
        wanted = Device.cuda if context.machine.cuda else Device.cpu
    return wanted.value
