"""Drives TensorRT's builder: ONNX file in, plan bytes out, on 10.x and 11.x alike.

Networks are strongly typed: the graph sets the format in which each operator computes, no flag does.
"""

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.actions.build_plan.profile_shapes import Bounds
from tasks.actions.build_plan.progress import progress_monitor
from tasks.actions.build_plan.timing_cache import TimingCache
from tasks.errors import UserError
from tasks.runtimes.tensorrt_.library import construct, enum_member, error_text

COMPATIBILITY = {"ampere_plus": "AMPERE_PLUS", "same_compute_capability": "SAME_COMPUTE_CAPABILITY"}


@dataclass(frozen=True)
class PlanRequest:
    """What to build.

    Attributes:
        onnx: the file, with external weights beside it.
        label: text stored in the plan as its network's name.
        shapes: one entry per profile, see `tasks.actions.build_plan.profile_shapes`.
        settings: the resolved `tensorrt` settings.
        threads: CPU threads the builder may use.
    """

    onnx: Path
    label: str
    shapes: Sequence[Mapping[str, Bounds]]
    settings: Mapping[str, Any]
    threads: int


def build_engine(trt: Any, request: PlanRequest, *, logger: Any, cache: TimingCache) -> bytes:
    """Build the plan.

    Raises:
        UserError: with every error of the parser and the builder.
    """
    builder = construct(trt.Builder, logger=logger)
    builder.max_threads = request.threads
    network = _network(trt, builder)
    parser = trt.OnnxParser(network, logger)  # owns the weights that the network points to until it is built
    _parse(parser, request.onnx, logger)
    if request.label:
        network.name = request.label
    monitor = progress_monitor(trt, warnings=logger.warnings)
    config = _config(trt, builder, request)
    config.progress_monitor = monitor
    cache.load_into(config)
    with _signals_end_the_process():
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _failed(request, logger)
    cache.save_from(config)
    return bytes(plan)


@contextmanager
def _signals_end_the_process() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the process at once.

    Python runs its own handlers only between its instructions: here, after minutes in TensorRT, or in a callback out
    of which an exception must not go. The build runs in a process of its own, whose parent removes its private folder.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    previous = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _network(trt: Any, builder: Any) -> Any:
    """On 11 the flag is ignored because every network is strongly typed; on 10 leaving it out would give fp32."""
    flag = enum_member(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    return builder.create_network(0 if flag is None else 1 << int(flag))


def _parse(parser: Any, path: Path, logger: Any) -> None:
    """From the file, not from bytes: external weights are found beside it, and it may be larger than 2 GB."""
    if parser.parse_from_file(str(path)):
        return
    errors = [_describe(parser.get_error(index)) for index in range(parser.num_errors)]
    others = [line for line in logger.errors if not any(line in error for error in errors)]
    value = "; ".join(dict.fromkeys([*errors, *others]))
    raise UserError("TensorRT cannot parse the graph", where=path, value=value, remedy="Change the model")


def _describe(error: Any) -> str:
    place = f" at node {error.node_name()} ({error.node_operator()})" if error.node_operator() else ""
    return f"{error.desc()}{place}"


def _config(trt: Any, builder: Any, request: PlanRequest) -> Any:
    settings = request.settings
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(settings["workspace_gib"] * 2**30))
    config.builder_optimization_level = settings["optimization_level"]
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # read_back needs the layers' formats
    if not settings["tf32"]:
        config.clear_flag(trt.BuilderFlag.TF32)
    _set_compatibility(trt, config, settings)
    for index, shapes in enumerate(request.shapes):
        _add_profile(builder, config, index, shapes)
    return config


def _set_compatibility(trt: Any, config: Any, settings: Mapping[str, Any]) -> None:
    if settings.get("version_compatible"):
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    setting = settings.get("hardware_compatibility", "none")
    if setting == "none":
        return
    level = enum_member(trt.HardwareCompatibilityLevel, COMPATIBILITY[setting])
    if level is None:
        raise UserError(
            f"TensorRT {trt.__version__} does not have this level",
            where="tensorrt.hardware_compatibility",
            value=setting,
            remedy="Install a newer TensorRT or choose another level",
        )
    config.hardware_compatibility_level = level


def _add_profile(builder: Any, config: Any, index: int, shapes: Mapping[str, Bounds]) -> None:
    profile = builder.create_optimization_profile()
    for name, (low, opt, high) in shapes.items():
        profile.set_shape(name, low, opt, high)
    if config.add_optimization_profile(profile) != index:
        raise UserError("TensorRT rejects the profile", where=f"tensorrt profile {index}", value=dict(shapes))


def _failed(request: PlanRequest, logger: Any) -> UserError:
    reason = error_text(logger)
    remedy = "See TensorRT's errors above; `doit doctor` lists the GPU, the driver and the version of TensorRT"
    if "memory" in reason.lower():
        remedy = "Raise tensorrt.workspace_gib, lower the profile's maximum, or free GPU memory"
    return UserError("TensorRT built no plan", where=request.onnx, value=reason, remedy=remedy)
