"""TensorRT itself: importing it, hearing what it says, and turning a plan back into an engine.

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

# What the library writes when it refuses a plan, and what a person can do about it; the first match speaks.
REFUSALS = (
    (r"incompatible device|compute capability|different (gpu|device)", "it was built for another GPU", REBUILD),
    (
        r"version tag does not match|not compatible with this version|expecting library version|lean runtime",
        "it was built by another TensorRT",
        f"{REBUILD}, or install the TensorRT that built it",
    ),
    (
        r"magic ?tag|truncated|unexpected end|size.*mismatch|does not match archive size|corrupt",
        "it is truncated or no plan at all",
        REBUILD,
    ),
    (
        r"driver|cuda initialization|cuda error|error: 35",
        "CUDA failed, often for a driver older than this TensorRT needs",
        "Update the NVIDIA driver or install an older TensorRT",
    ),
    (r"out ?of ?memory|memory alloc", "the GPU has too little free memory", "Free GPU memory or use a smaller profile"),
    (r"host code", "it carries code for the host (tensorrt.version_compatible)", "Load it with allow_host_code=True"),
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


def member(enumeration: Any, name: str) -> Any | None:
    """An enum's member by name, or None where this TensorRT does not have it."""
    return getattr(enumeration, name, None)


def collecting_logger(trt: Any) -> Any:
    """A logger that keeps what TensorRT says: `errors` and `warnings`, lists of lines.

    TensorRT calls it from several threads and holds on to it as long as anything it made lives.
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
        allow_host_code: a plan built with version_compatible holds machine code that runs on the host; TensorRT
            refuses it unless told that the file is trusted.

    Raises:
        UserError: what TensorRT refused it for, in its own words and in ours.
    """
    runtime = start(trt.Runtime, logger=logger)
    if allow_host_code:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise _refusal(said(logger), where)
    return engine


def start(make: Callable[[Any], Any], *, logger: Any) -> Any:
    """`trt.Builder` or `trt.Runtime`, made.

    Raises:
        UserError: if CUDA does not start; the bindings say so by a TypeError of a factory that gave no object.
    """
    try:
        return make(logger)
    except TypeError as problem:
        value = said(logger, nothing=str(problem))
        remedy = "Update the NVIDIA driver or install an older TensorRT"
        raise UserError(
            "CUDA does not start for TensorRT: no GPU, no driver, or one too old", value=value, remedy=remedy
        ) from problem


def said(logger: Any, *, last: int = 0, nothing: str = "TensorRT gave no reason") -> str:
    """The errors TensorRT has written, or the `last` few of them."""
    return "; ".join(dict.fromkeys(logger.errors[-last:])) or nothing


def _refusal(reason: str, where: str | Path) -> UserError:
    for pattern, what, remedy in REFUSALS:
        if re.search(pattern, reason, re.IGNORECASE):
            return UserError(f"the plan cannot be loaded: {what}", where=where, value=reason, remedy=remedy)
    return UserError("the plan cannot be loaded", where=where, value=reason, remedy=REBUILD)
