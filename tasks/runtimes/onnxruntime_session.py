"""Runs an ONNX file in ONNX Runtime with all graph optimisations, and says which provider really runs it."""

from collections.abc import Mapping
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from tasks.errors import UserError
from tasks.runtimes.contract import Shapes

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
ERRORS_ONLY = 3
# TF32 would round to 10 bits what is verified as fp32.
PROVIDERS = {"cpu": [CPU], "cuda": [(CUDA, {"use_tf32": "0"}), CPU]}


def open_artifact(path: Path, *, device: str, threads: int = 1, frugal: bool = False) -> "OnnxRuntimeSession":
    """Load a file.

    Args:
        device: "cpu" or "cuda". ONNX Runtime falls back from CUDA to the CPU without an error; here that is one.
        threads: threads inside an operator.
        frugal: give memory back as soon as an operator is done, at the cost of time; for large single runs.

    Raises:
        UserError: the file cannot be loaded, or CUDA was asked for and is not what runs it.
    """
    kind = device.partition(":")[0]
    if kind == "cuda":
        onnxruntime.preload_dlls()  # the CUDA libraries that come with PyTorch's wheels
    try:
        session = onnxruntime.InferenceSession(path, _options(threads, frugal=frugal), providers=PROVIDERS[kind])
    except Exception as error:  # ONNX Runtime's errors share no base class
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            "ONNX Runtime cannot load it", where=path, value=reason, remedy="Build it again: doit export_onnx"
        ) from error
    provider = session.get_providers()[0]
    if kind == "cuda" and provider != CUDA:
        raise UserError(
            f"CUDA was asked for, but ONNX Runtime {onnxruntime.__version__} fell back to another provider",
            where=path,
            value=provider,
            remedy="Install an onnxruntime-gpu that matches the CUDA libraries, or set verify.device=cpu",
        )
    return OnnxRuntimeSession(session, provider=provider)


class OnnxRuntimeSession:
    """A loaded ONNX file; inputs are taken as they are, in the dtypes of the file."""

    def __init__(self, session: onnxruntime.InferenceSession, *, provider: str) -> None:
        self._session, self.provider = session, provider
        self.shapes: Shapes = {
            value.name: tuple(size if isinstance(size, int) else None for size in value.shape)
            for value in session.get_inputs()
        }

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        arrays = {name: value.detach().cpu().numpy() for name, value in inputs.items()}
        return tuple(torch.from_numpy(array) for array in self._session.run(None, arrays))


def _options(threads: int, *, frugal: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    options.enable_cpu_mem_arena = options.enable_mem_pattern = not frugal
    return options
