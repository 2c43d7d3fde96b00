"""What the graph of steps is made from: one configuration, this machine, and what lies in the user's folders."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks.paths import ArtifactPaths
from tasks.settings.schema import Config, Device


@dataclass(frozen=True)
class Machine:
    """What the graph needs to know of this machine.

    Attributes:
        cuda: PyTorch can use a GPU.
        gpu: name of the GPU in file names.
        tensorrt: its version.
        build_obstacle: why no TensorRT plan can be built here, and the remedy; None where it can.
        runtime_obstacle: why no plan can be run here, and the remedy; None where it can.
        transformers: the library is installed.
    """

    cuda: bool = False
    gpu: str = "nogpu"
    tensorrt: str = "not installed"
    build_obstacle: tuple[str, str] | None = None
    runtime_obstacle: tuple[str, str] | None = None
    transformers: bool = True


@dataclass(frozen=True)
class GraphInputs:
    """One configuration with what is derived from it once.

    Attributes:
        config: checked settings with absolute paths.
        machine: what this machine can do.
        checkpoints: for each part with a folder of checkpoints, the files to average with their sidecars.
        absent: parts, and further files of components, that the model folder does not have.
        left_out: for each part with a folder of checkpoints, those that are never chosen, with the reason.
    """

    config: Config
    machine: Machine
    checkpoints: Mapping[str, Sequence[Path]]
    absent: Collection[str] = ()
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    paths: ArtifactPaths = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", ArtifactPaths(Path(self.config.artifacts), self.config.model.name))

    def is_averaged(self, part: str) -> bool:
        """Whether a part's weights are averaged from checkpoints, given ones or those of our own training."""
        return bool(self.checkpoints.get(part)) or self.is_trained(part)

    def is_trained(self, part: str) -> bool:
        """Whether the checkpoints of a part come from our own training."""
        training = self.config.model.training
        return training is not None and training.part == part and part not in self.checkpoints

    def in_folder(self, file: str) -> Path:
        """A file of the model folder; relative where no folder is given."""
        return Path(self.config.model.dir or "") / file

    @property
    def model_yaml(self) -> Path:
        return self.in_folder(self.config.model.config)

    @property
    def verification_device(self) -> str:
        """Where artifacts are run to verify them."""
        wanted = self.config.verify.device
        if wanted is Device.auto:
            wanted = Device.cuda if self.machine.cuda else Device.cpu
        return wanted.value
