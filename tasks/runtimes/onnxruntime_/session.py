"""Runs an ONNX file in ONNX Runtime with all graph optimizations, and reports which provider really runs it.

Its CPU provider has hardly any bf16 kernels; there such a file runs in an emulation.
"""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnxruntime
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from tasks.errors import UserError, reason
from tasks.runtimes.base import Dtypes, Shapes, torch_dtype
from tasks.settings.number_formats import BY_NAME, BY_ONNXRUNTIME

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
BF16 = BY_NAME["bf16"]
REBUILD = "Build it again: doit export_onnx"
EMULATED = " (bf16 emulated: computed in fp32, rounded after each operator)"
ERRORS_ONLY = 3
# TF32 would round to 10 bits what is verified as fp32.
PROVIDERS = {"cpu": [CPU], "cuda": [(CUDA, {"use_tf32": "0"}), CPU]}


def open_artifact(path: Path, *, device: str, threads: int = 1, low_memory: bool = False) -> "OnnxRuntimeSession":
    """Load a file.

    Args:
        device: "cpu" or "cuda". ONNX Runtime falls back from CUDA to the CPU without an error; here that is one.
        threads: threads inside an operator.
        low_memory: free memory as soon as an operator is done, at the cost of time; for large single runs.

    Raises:
        UserError: the file cannot be loaded, or CUDA was asked for and is not what runs it.
    """
    kind = device.partition(":")[0]
    if kind == "cuda":
        onnxruntime.preload_dlls()  # the CUDA libraries that come with PyTorch's wheels
    options, note = _options(threads, low_memory=low_memory), ""
    try:
        try:
            session = onnxruntime.InferenceSession(path, options, providers=PROVIDERS[kind])
        except NoKernel:
            if kind != "cpu" or (emulation := _emulated(path, options)) is None:
                raise
            session, note = emulation, EMULATED
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise _cannot_load(path, kind, error) from error
    provider = session.get_providers()[0]
    if kind == "cuda" and provider != CUDA:
        raise UserError(
            f"CUDA was asked for, but ONNX Runtime {onnxruntime.__version__} fell back to another provider",
            where=path,
            value=provider,
            remedy="Install an onnxruntime-gpu that matches the CUDA libraries, or set verify.device=cpu",
        )
    return OnnxRuntimeSession(session, path, provider=provider + note, emulated=bool(note))


class OnnxRuntimeSession:
    """A loaded ONNX file; inputs are taken as they are, in the dtypes of the file.

    Attributes:
        emulated: whether it runs in an emulation of bf16.
    """

    def __init__(self, session: onnxruntime.InferenceSession, path: Path, *, provider: str, emulated: bool) -> None:
        self._session, self._path, self.provider, self.emulated = session, path, provider, emulated
        self.shapes: Shapes = {
            value.name: tuple(size if isinstance(size, int) else None for size in value.shape)
            for value in session.get_inputs()
        }
        self.dtypes, self.outputs = _dtypes(session.get_inputs()), _dtypes(session.get_outputs())
        ends = (*session.get_inputs(), *session.get_outputs())
        self._has_bf16 = any(value.type == BF16.onnxruntime for value in ends)

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        try:
            return self._run(inputs)
        except Exception as error:  # ONNX Runtime's errors share no base class
            sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
            what = f"ONNX Runtime cannot run it on {sizes}"
            raise UserError(what, where=self._path, value=reason(error), remedy=REBUILD) from error

    def _run(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        if self._has_bf16:
            values = {name: _ort_value(value) for name, value in inputs.items()}
            return tuple(_tensor(value) for value in self._session.run_with_ort_values(None, values))
        arrays = {name: value.detach().cpu().numpy() for name, value in inputs.items()}
        return tuple(torch.from_numpy(array) for array in self._session.run(None, arrays))


def _dtypes(values: Iterable[onnxruntime.NodeArg]) -> Dtypes:
    return {value.name: torch_dtype(BY_ONNXRUNTIME[value.type]) for value in values if value.type in BY_ONNXRUNTIME}


def _emulated(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession | None:
    from tasks.runtimes.onnxruntime_ import bf16_emulation  # other files need not wait for onnx to be imported

    with tempfile.TemporaryDirectory() as folder:
        emulation = Path(folder) / "emulation.onnx"
        if not bf16_emulation.write_emulation(path, emulation):
            return None
        return onnxruntime.InferenceSession(emulation, options, providers=PROVIDERS["cpu"])


def _ort_value(value: Tensor) -> onnxruntime.OrtValue:
    """numpy has no bfloat16: its bits are handed over as integers. With CUDA this has not been run yet."""
    array = value.detach().cpu().contiguous()
    if array.dtype != torch.bfloat16:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array.numpy())
    bits = array.view(torch.uint16).numpy()
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, BF16.onnx)


def _tensor(value: onnxruntime.OrtValue) -> Tensor:
    if value.data_type() == BF16.onnxruntime:
        return from_dlpack(value)
    return torch.from_numpy(value.numpy())


def _cannot_load(path: Path, kind: str, error: Exception) -> UserError:
    remedy = REBUILD
    if kind == "cuda" and isinstance(error, NoKernel):
        remedy = "Set verify.device=cpu"
    return UserError("ONNX Runtime cannot load it", where=path, value=reason(error), remedy=remedy)


def _options(threads: int, *, low_memory: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    options.enable_cpu_mem_arena = options.enable_mem_pattern = not low_memory
    return options
