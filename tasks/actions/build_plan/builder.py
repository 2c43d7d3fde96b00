"""Drives TensorRT's builder: ONNX file in, plan bytes out, on 10.x and 11.x alike.

Networks are strongly typed: the graph says in which format each operator computes, no flag does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.actions.build_plan.profile_shapes import Bounds
from tasks.actions.build_plan.progress import BuildProgress, progress_monitor, run_cancellable
from tasks.actions.build_plan.timing_cache import TimingCache
from tasks.errors import UserError
from tasks.runtimes.tensorrt_.library import member, said, start

COMPATIBILITY = {"ampere_plus": "AMPERE_PLUS", "same_compute_capability": "SAME_COMPUTE_CAPABILITY"}


@dataclass(frozen=True)
class PlanRequest:
    """What to build.

    Attributes:
        onnx: the file; weights in external files are found beside it.
        label: text the plan carries as its network's name.
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
        KeyboardInterrupt: after the build has been stopped.
    """
    builder = start(trt.Builder, logger=logger)
    builder.max_threads = request.threads
    network = _network(trt, builder)
    parser = trt.OnnxParser(network, logger)  # owns the weights that the network points to until it is built
    _parse(parser, request.onnx, logger)
    if request.label:
        network.name = request.label
    progress = BuildProgress()
    monitor = progress_monitor(trt, progress)
    config = _config(trt, builder, request)
    config.progress_monitor = monitor
    cache.load_into(config)
    plan = run_cancellable(lambda: builder.build_serialized_network(network, config), progress=progress)
    if plan is None:
        raise _failed(request, logger)
    cache.save_from(config)
    return bytes(plan)


def _network(trt: Any, builder: Any) -> Any:
    """On 11 the flag is ignored because every network is strongly typed; on 10 leaving it out would give fp32."""
    flag = member(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    return builder.create_network(0 if flag is None else 1 << int(flag))


def _parse(parser: Any, path: Path, logger: Any) -> None:
    """From the file and not from bytes: only so are external weights found, and more than 2 GB possible."""
    if parser.parse_from_file(str(path)):
        return
    errors = [_worded(parser.get_error(index)) for index in range(parser.num_errors)]
    lines = dict.fromkeys([*errors, *(line for line in logger.errors if not any(line in told for told in errors))])
    raise UserError("TensorRT cannot read the graph", where=path, value="; ".join(lines), remedy="Change the model")


def _worded(error: Any) -> str:
    place = f" at node {error.node_name()} ({error.node_operator()})" if error.node_operator() else ""
    return f"{error.desc()}{place}"


def _config(trt: Any, builder: Any, request: PlanRequest) -> Any:
    settings = request.settings
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(settings["workspace_gib"] * 2**30))
    config.builder_optimization_level = settings["optimization_level"]
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that reading back tells the layers' formats
    if not settings["tf32"]:
        config.clear_flag(trt.BuilderFlag.TF32)
    _set_compatibility(trt, config, settings)
    for index, shapes in enumerate(request.shapes):
        _add_profile(builder, config, index, shapes)
    return config


def _set_compatibility(trt: Any, config: Any, settings: Mapping[str, Any]) -> None:
    if settings.get("version_compatible"):
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    wanted = settings.get("hardware_compatibility", "none")
    if wanted == "none":
        return
    level = member(trt.HardwareCompatibilityLevel, COMPATIBILITY[wanted])
    if level is None:
        where = "tensorrt.hardware_compatibility"
        raise UserError(f"TensorRT {trt.__version__} does not offer it", where=where, value=wanted, remedy="Update it")
    config.hardware_compatibility_level = level


def _add_profile(builder: Any, config: Any, index: int, shapes: Mapping[str, Bounds]) -> None:
    profile = builder.create_optimization_profile()
    for name, (low, usual, high) in shapes.items():
        profile.set_shape(name, low, usual, high)
    if config.add_optimization_profile(profile) != index:
        raise UserError("TensorRT refuses the profile", where=f"tensorrt profile {index}", value=dict(shapes))


def _failed(request: PlanRequest, logger: Any) -> UserError:
    reason = said(logger)
    remedy = "Read TensorRT's errors above; `doit doctor` tells whether GPU, driver and TensorRT go together"
    if "memory" in reason.lower():
        remedy = "Raise tensorrt.workspace_gib, lower the profile's maximum, or free GPU memory"
    return UserError("TensorRT built no plan", where=request.onnx, value=reason, remedy=remedy)
