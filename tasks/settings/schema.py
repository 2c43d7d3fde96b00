"""Every setting: its type, unit, default and range. YAML under conf/ states only what differs.

The dataclasses are Hydra's structured schema, so an unknown key or a wrong type is refused while composing. Ranges are
beside the defaults; rules between fields are in `validation.py`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING

from tasks.settings.component import Kind
from tasks.settings.onnx_exporters import OPSETS

# What fp16 must not do, as torch.autocast has it: sums of many terms, functions with a large range or slope, angles.
SENSITIVE = (
    "LayerNormalization", "GroupNormalization", "InstanceNormalization", "Softmax", "LogSoftmax", "Softplus", "Mish",
    "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Sin", "Cos", "CumSum",
    "ReduceMean", "ReduceSum", "ReduceL2", "ReduceLogSumExp",
)  # fmt: skip


LARGEST_SEED = 2**32 - 1


def within(default: Any, **bounds: float) -> Any:
    """A number with its range: `ge`, `gt` (at least, more than), `le`, `lt` (at most, less than)."""
    return field(default=default, metadata=bounds)


class Format(StrEnum):
    """What a component is exported to."""

    torchscript = "torchscript"
    onnx = "onnx"
    tensorrt = "tensorrt"
    vllm = "vllm"


class Exporter(StrEnum):
    """Which of PyTorch's two ONNX exporters runs; auto: dynamo wherever it can write the opset."""

    auto = "auto"
    dynamo = "dynamo"
    torchscript = "torchscript"


class Target(StrEnum):
    """The device a TorchScript file is optimised for; `portable` runs on both."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    portable = "portable"


class Device(StrEnum):
    """Where an artifact is run to verify it; auto means CUDA if there is a GPU."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class ExternalData(StrEnum):
    """Whether ONNX weights go into a file beside the model; auto: only beyond protobuf's 2 GB."""

    auto = "auto"
    always = "always"


class Mode(StrEnum):
    """off: no plans; auto: plans where TensorRT and a GPU are; required: their absence is an error."""

    off = "off"
    auto = "auto"
    required = "required"


class HardwareCompatibility(StrEnum):
    """Which GPUs besides the building one may load a plan."""

    none = "none"
    ampere_plus = "ampere_plus"
    same_compute_capability = "same_compute_capability"


@dataclass
class Axis:
    """Sizes of one axis. Feeds ONNX dynamic axes, TensorRT profiles and the shapes that verification tries."""

    min: int = MISSING
    opt: int = MISSING
    max: int = MISSING
    multiple_of: int = within(1, ge=1)  # 2 for the batch of classifier-free guidance
    least: int = within(1, ge=1)  # smallest size that the network can take: its stride
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
    parts: dict[str, str] = MISSING  # part -> file in the folder
    checkpoints: dict[str, str | None] = field(default_factory=dict)  # part -> folder of checkpoints to average
    training: Training | None = None
    axes: dict[str, Axis] = MISSING
    components: dict[str, Component] = MISSING


@dataclass
class Precision:
    """The number format of an artifact's weights and arithmetic."""

    name: str = MISSING


@dataclass
class Average:
    """Which checkpoints are averaged."""

    num: int = within(5, ge=1)
    val_best: bool = True  # lowest validation loss; false: newest by epoch and step


@dataclass
class Train:
    """The demo model's training."""

    max_epoch: int = within(6, ge=1)
    steps_per_epoch: int = within(40, ge=1)
    batch_size: int = within(8, ge=1)
    lr: float = within(1e-3, gt=0)  # reached after warmup_steps, falling as the inverse square root from there
    warmup_steps: int = within(40, ge=1)
    grad_clip: float = within(5.0, gt=0)  # largest norm of the gradient
    validation_batches: int = within(4, ge=1)
    seed: int = within(0, ge=0, le=LARGEST_SEED)


@dataclass
class TorchScript:
    """TorchScript export."""

    target: Target = Target.auto
    optimize: bool = True  # torch.jit.optimize_for_inference, which ties the file to the target device


@dataclass
class Onnx:
    """ONNX export."""

    opset: int = within(18, ge=OPSETS.start, le=OPSETS.stop - 1)
    exporter: Exporter = Exporter.auto
    constant_folding: bool = True
    simplify: bool = True
    dynamic_batch: bool = False  # true: axes with dynamic=false, the batch, vary as well
    external_data: ExternalData = ExternalData.auto
    keep_fp32: list[str] = field(default_factory=lambda: list(SENSITIVE))  # operators or node names kept in fp32


@dataclass
class TensorRT:
    """TensorRT plans."""

    mode: Mode = Mode.auto
    profile: dict[str, Any] = field(default_factory=dict)  # axis -> [min, opt, max], instead of model.axes
    profiles: list[dict[str, Any]] = field(default_factory=list)  # several such profiles in one plan
    workspace_gib: float = within(4.0, gt=0)
    optimization_level: int = within(3, ge=0, le=5)
    hardware_compatibility: HardwareCompatibility = HardwareCompatibility.none
    version_compatible: bool = False  # loadable by newer TensorRT versions, too
    tf32: bool = False  # fp32 means fp32 unless this is set
    timing_cache: str | None = None  # folder that builds keep their measurements in; by default beside the artifacts
    concurrency: int = within(1, ge=1)  # execution contexts, each with a stream of its own, in which a loaded plan runs


@dataclass
class Verify:
    """How an artifact is compared with the original; conf/verify/<precision>.yaml has the tolerances."""

    auto: bool = True  # part of export_all
    trials: int = within(10, ge=1)
    seed: int = within(0, ge=0, le=LARGEST_SEED)
    max_frames: int = within(550, ge=1)  # largest size tried on an axis; beyond the usual one, below the slow ones
    device: Device = Device.auto
    real_inputs: bool = True  # also try inputs recorded during the model's own inference
    rtol: float = within(MISSING, ge=0)  # an element is outside where |a - b| > atol + rtol |b|
    atol: float = within(MISSING, ge=0)
    max_outside: float = within(MISSING, ge=0, le=1)  # share of elements that may be outside
    max_peak_error: float = within(MISSING, ge=0)  # largest |a - b| over the original's largest |b|
    min_snr_db: float = MISSING  # signal-to-noise ratio
    min_cosine: float = within(MISSING, ge=-1, le=1)


@dataclass
class Vllm:
    """How the folder for vLLM, bf16 whatever the precision, is compared with the original in fp32."""

    trials: int = within(4, ge=1)
    seed: int = within(0, ge=0, le=LARGEST_SEED)
    max_positions: int = within(200, ge=4)  # text and speech tokens of the longest trial
    # In fp32 arithmetic, weights rounded on both sides: only the order of additions may differ.
    min_exact_snr_db: float = 80.0
    # As served: a rounding to bf16's 8 bits is noise 56 dB below the signal, and those of all layers add up.
    # Measured on the full-size models: 35 dB, cosine 0.99984, peak error 0.025; 121 dB for the one above.
    min_snr_db: float = 25.0
    min_cosine: float = within(0.998, ge=-1, le=1)
    max_peak_error: float = within(0.1, ge=0)


@dataclass
class Config:
    """All settings of one composition."""

    artifacts: str = "artifacts"  # output folder
    model: Model = field(default_factory=Model)
    precision: Precision = field(default_factory=Precision)
    average: Average = field(default_factory=Average)
    train: Train = field(default_factory=Train)
    torchscript: TorchScript = field(default_factory=TorchScript)
    onnx: Onnx = field(default_factory=Onnx)
    tensorrt: TensorRT = field(default_factory=TensorRT)
    verify: Verify = field(default_factory=Verify)
    vllm: Vllm = field(default_factory=Vllm)
