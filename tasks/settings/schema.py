"""Every setting: its type, unit, default and range. YAML under conf/ states only what differs.

The dataclasses are Hydra's structured schema, so an unknown key or a wrong type is refused while composing. Ranges are
beside the defaults; rules between fields are in `validation.py`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tasks.settings.model_schema import MISSING, Model, within
from tasks.settings.onnx_exporters import OPSETS

# What fp16 must not do, as torch.autocast has it: sums of many terms, functions with a large range or slope, angles.
SENSITIVE = (
    "LayerNormalization", "GroupNormalization", "InstanceNormalization", "Softmax", "LogSoftmax", "Softplus", "Mish",
    "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Sin", "Cos", "CumSum",
    "ReduceMean", "ReduceSum", "ReduceL2", "ReduceLogSumExp",
)  # fmt: skip


LARGEST_SEED = 2**32 - 1


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

    max_epoch: int = within(6, ge=1, le=10_000)
    steps_per_epoch: int = within(40, ge=1)
    batch_size: int = within(8, ge=1, le=4096)
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
    workspace_gib: float = within(4.0, gt=0, le=1_000_000)
    optimization_level: int = within(3, ge=0, le=5)
    hardware_compatibility: HardwareCompatibility = HardwareCompatibility.none
    version_compatible: bool = False  # loadable by newer TensorRT versions, too
    tf32: bool = False  # fp32 means fp32 unless this is set
    timing_cache: str | None = None  # folder that builds keep their measurements in; by default beside the artifacts
    concurrency: int = within(1, ge=1, le=1000)  # execution contexts of a loaded plan, each with a stream of its own


@dataclass
class Verify:
    """How an artifact is compared with the original; conf/verify/<precision>.yaml has the tolerances."""

    auto: bool = True  # part of export_all
    trials: int = within(10, ge=1, le=10_000)
    seed: int = within(0, ge=0, le=LARGEST_SEED)
    max_frames: int = within(550, ge=1)  # largest size tried on an axis; beyond the usual one, below the slow ones
    device: Device = Device.auto
    real_inputs: bool = True  # also try inputs recorded during the model's own inference
    max_noise: float = within(MISSING, ge=1)  # error energy, over what the format itself costs on the same trial
    accept_format: bool = True  # whether what is as good as its format can be passes beyond the limits below as well
    rtol: float = within(MISSING, ge=0)  # an element is outside where |a - b| > atol + rtol |b|
    atol: float = within(MISSING, ge=0)
    max_outside: float = within(MISSING, ge=0, le=1)  # share of elements that may be outside
    max_peak_error: float = within(MISSING, ge=0)  # largest |a - b| over the original's largest |b|
    min_snr_db: float = MISSING  # signal-to-noise ratio
    min_cosine: float = within(MISSING, ge=-1, le=1)


@dataclass
class Vllm:
    """How the folder for vLLM, bf16 whatever the precision, is compared with the original in fp32."""

    trials: int = within(4, ge=1, le=10_000)
    seed: int = within(0, ge=0, le=LARGEST_SEED)
    max_positions: int = within(200, ge=4, le=100_000)  # text and speech tokens of the longest trial
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
    memory_gib: float | None = within(None, gt=0)  # for steps that run at once; by default what is available
    model: Model = field(default_factory=Model)
    precision: Precision = field(default_factory=Precision)
    average: Average = field(default_factory=Average)
    train: Train = field(default_factory=Train)
    torchscript: TorchScript = field(default_factory=TorchScript)
    onnx: Onnx = field(default_factory=Onnx)
    tensorrt: TensorRT = field(default_factory=TensorRT)
    verify: Verify = field(default_factory=Verify)
    vllm: Vllm = field(default_factory=Vllm)
