"""What is declared about a model: its folder, its components with their inputs, outputs and axes, its training.

A part of the schema of all settings, `schema.py`; one declaration feeds every step of a component.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tasks.settings.component import Kind

MISSING: Any = "???"  # OmegaConf's own, of a setting that must be given; not imported, which takes a tenth of a second
LARGEST_SIZE = 2**31 - 1  # of an axis in TensorRT


def within(default: Any, **bounds: float) -> Any:
    """A number with its range: `ge`, `gt` (at least, more than), `le`, `lt` (at most, less than)."""
    return field(default=default, metadata=bounds)


class Format(StrEnum):
    """What a component is exported to."""

    torchscript = "torchscript"
    onnx = "onnx"
    tensorrt = "tensorrt"
    vllm = "vllm"


@dataclass
class Axis:
    """Sizes of one axis. Feeds ONNX dynamic axes, TensorRT profiles and the shapes that verification tries."""

    min: int = within(MISSING, le=LARGEST_SIZE)
    opt: int = within(MISSING, le=LARGEST_SIZE)
    max: int = within(MISSING, le=LARGEST_SIZE)
    multiple_of: int = within(1, ge=1, le=LARGEST_SIZE)  # 2 for the batch of classifier-free guidance
    least: int = within(1, ge=1, le=LARGEST_SIZE)  # smallest size that the network can take: its stride
    dynamic: bool = True  # false: fixed at opt in ONNX files, unless onnx.dynamic_batch=true


@dataclass
class Input:
    """One input tensor: its shape in numbers, axes and named sizes, and what its values look like in reality."""

    shape: list[Any] = MISSING
    kind: str = Kind.normal.value  # a Kind; text, so that all wrong ones are reported together
    dtype: str | None = None  # a Dtype; float32, but int64 for integers and int32 for lengths
    low: float | None = None  # of uniform (0) and integers
    high: float | None = None  # of uniform (1) and integers, which can have it
    axis: str | None = None  # that lengths measure; needed where there are several candidates


class ConfigFormat(StrEnum):
    """What a model's YAML is."""

    any = "any"  # every byte counts
    hyperpyyaml = "hyperpyyaml"  # a record for each part: of a part counts its record, with what it refers to


@dataclass
class ChunkedMethod:
    """A kept method that takes one sequence chunk by chunk and returns what forward returns for the whole."""

    method: str = MISSING
    pieces: str = MISSING  # the input that is given in chunks
    axis: str = MISSING  # along which it is cut
    state: dict[str, list[int]] = MISSING  # argument -> its first shape; the further outputs are its next values
    position: str | None = None  # argument that receives the number of positions already processed
    mask: str | None = None  # argument, bool [1, chunk, all so far]: which earlier positions each one attends to
    arguments: dict[str, Any] = field(default_factory=dict)  # the others


@dataclass
class Component:
    """One module inside a model that becomes artifacts of its own."""

    name: str = MISSING  # dotted path inside the model; also the file stem
    part: str = MISSING  # which checkpoint file of the model holds it
    loader: str = MISSING  # module:function that builds it: loader(spec, config=Path, weights=Path) -> nn.Module
    formats: list[Format] = MISSING
    inputs: dict[str, Input] = MISSING
    outputs: dict[str, list[Any]] = MISSING
    named_sizes: list[str] = field(default_factory=list)  # in shapes, that are no axis: fixed by weights, or computed
    kept_methods: list[str] = field(default_factory=list)  # kept callable beside forward in a frozen .zip
    options: dict[str, Any] = field(default_factory=dict)  # keyword arguments of forward fixed at export
    chunked: ChunkedMethod | None = None  # the kept method that verification runs
    files: dict[str, str] = field(default_factory=dict)  # further files of the model folder that it is made from
    optional_files: dict[str, str] = field(default_factory=dict)  # the same, where the folder has them
    records: list[str] = field(default_factory=list)  # further keys of the YAML that its loader reads, beside its part
    precisions: list[str] = field(default_factory=list)  # the only ones it is exported in; empty: any
    precisions_reason: str = ""
    recorder: str | None = None  # module:function that records its inputs during the model's own inference
    recordings: list[str] = field(default_factory=list)  # .pt files of inputs recorded elsewhere, to be tried as well


@dataclass
class Training:
    """How our own train task makes checkpoints of a part."""

    part: str = MISSING
    loader: str = MISSING  # module:function, loader(part, config=Path) -> nn.Module with random weights
    data: str = MISSING  # module:function, data(count=, batch_size=, seed=) -> iterator of batches


@dataclass
class Model:
    """A model folder and what is in it."""

    name: str = MISSING  # first folder under artifacts/
    dir: str | None = None  # the folder in the original layout
    config: str = MISSING  # the folder's YAML
    config_format: ConfigFormat = ConfigFormat.any  # decides what of that YAML makes an artifact stale
    classes: list[str] = field(default_factory=list)  # in that YAML, by which a folder of this model is recognised
    parts: dict[str, str] = MISSING  # part -> file in the folder
    checkpoints: dict[str, str | None] = field(default_factory=dict)  # part -> folder of checkpoints to average
    training: Training | None = None
    axes: dict[str, Axis] = MISSING
    components: dict[str, Component] = MISSING
