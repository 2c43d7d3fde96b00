"""The TensorRT library: importing it, collecting its log, and deserializing a plan.

Everything takes the module as an argument. Enum members are looked up by name: their numbers changed in 10.0 and 11.0.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.errors import UserError

OLDEST = (10, 0)
KEPT_WARNINGS, KEPT_ERRORS = 50, 1000
INSTALL = "pip install 'voxkiln[tensorrt]'"
REBUILD = "Build the plan on this machine: doit export_plan"

# Patterns of the library's errors when it rejects a plan, the cause and its remedy; the first match counts.
REJECTIONS = (
    (r"incompatible device|compute capability|different (gpu|device)", "it was built for another GPU", REBUILD),
    (
        r"version tag does not match|not compatible with this version|expecting library version|lean runtime",
        "it was built by another TensorRT",
        f"{REBUILD}, or install the TensorRT that built it",
    ),
    (
        r"magic ?tag|truncated|unexpected end|size.*mismatch|does not match archive size|corrupt",
        "it is truncated or not a plan",
        REBUILD,
    ),
    (
        r"driver|cuda initialization|cuda error|error: 35",
        "CUDA failed, often because the driver is older than this TensorRT needs",
        "Update the NVIDIA driver or install an older TensorRT",
    ),
    (r"out ?of ?memory|memory alloc", "the GPU has too little free memory", "Free GPU memory or use a smaller profile"),
    (r"host code", "it contains host code (tensorrt.version_compatible)", "Load it with allow_host_code=True"),
)


def import_tensorrt() -> Any:
    """The `tensorrt` module.

    Raises:
        UserError: if it is not installed, cannot be loaded, or is too old for strongly typed networks.
    """
    try:
        import tensorrt
    except ImportError as problem:
        raise UserError("TensorRT cannot be imported", value=str(problem), remedy=f"Run {INSTALL}") from problem
    version = tuple(map(int, re.findall(r"\d+", tensorrt.__version__)[:2]))
    if version < OLDEST:
        raise UserError("TensorRT is too old", value=tensorrt.__version__, remedy=f"Run {INSTALL} for 10.0 or newer")
    return tensorrt


def enum_member(enumeration: Any, name: str) -> Any | None:
    """An enum's member by name, or None if this version of TensorRT does not have it."""
    return getattr(enumeration, name, None)


def collecting_logger(trt: Any) -> Any:
    """A logger that collects TensorRT's messages in the lists `errors` and `warnings`.

    TensorRT calls it from several threads and references it as long as any object made with it exists.
    """

    class CollectingLogger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(msg)
                del self.errors[:-KEPT_ERRORS]  # a server may run for months
            elif severity == trt.ILogger.Severity.WARNING and len(self.warnings) < KEPT_WARNINGS:
                self.warnings.append(msg)

    return CollectingLogger()


def read_plan(path: Path) -> bytes:
    """A plan's bytes.

    Raises:
        UserError: if the file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as problem:
        raise UserError("the plan cannot be read", where=path, value=problem.strerror, remedy=REBUILD) from problem


def deserialize(trt: Any, plan: bytes, *, logger: Any, where: str | Path, allow_host_code: bool = False) -> Any:
    """The engine in a plan's bytes.

    Args:
        allow_host_code: a plan built with version_compatible contains machine code that runs on the host; TensorRT
            rejects it unless the file is declared to be trusted.

    Raises:
        UserError: with the likely cause and TensorRT's own errors.
    """
    runtime = construct(trt.Runtime, logger=logger)
    if allow_host_code:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise _rejection(error_text(logger), where)
    return engine


def construct(cls: Callable[[Any], Any], *, logger: Any) -> Any:
    """An instance of `trt.Builder` or `trt.Runtime`.

    Raises:
        UserError: if CUDA does not start; the bindings then raise a TypeError because their factory returned nothing.
    """
    try:
        return cls(logger)
    except TypeError as problem:
        value = error_text(logger, default=str(problem))
        remedy = "Update the NVIDIA driver or install an older TensorRT"
        raise UserError(
            "CUDA does not start for TensorRT: no GPU, no driver, or one too old", value=value, remedy=remedy
        ) from problem


def error_text(logger: Any, *, last: int = 0, default: str = "TensorRT reported no error") -> str:
    """The errors that TensorRT has logged, or the `last` few of them, without repetitions."""
    return "; ".join(dict.fromkeys(logger.errors[-last:])) or default


def _rejection(reason: str, where: str | Path) -> UserError:
    for pattern, what, remedy in REJECTIONS:
        if re.search(pattern, reason, re.IGNORECASE):
            return UserError(f"the plan cannot be loaded: {what}", where=where, value=reason, remedy=remedy)
    return UserError("the plan cannot be loaded", where=where, value=reason, remedy=REBUILD)
