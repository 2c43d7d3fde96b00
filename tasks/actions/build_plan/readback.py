"""Loads a plan that was just built and compares it with the request: names, shapes, types, profiles, precision.

A builder that silently does something else (another precision, a dropped input) must not produce an artifact.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.actions.build_plan.inspection import Inspection, inspect_engine
from tasks.actions.build_plan.onnx_interface import OnnxInterface, OnnxTensor
from tasks.actions.build_plan.profile_shapes import Bounds
from tasks.errors import UserError
from tasks.runtimes.tensorrt_.interface import DTYPE_OF_FORMAT, PlanInterface, PlanTensor, read_interface
from tasks.runtimes.tensorrt_.library import deserialize

NOT_REPORTED = "not reported by this TensorRT's inspector"


def read_back(
    trt: Any, plan: bytes, *, graph: OnnxInterface, shapes: Sequence[Mapping[str, Bounds]], logger: Any, where: Path
) -> dict[str, Any]:
    """Facts about the plan: layers, their float formats, context memory per profile.

    Raises:
        UserError: listing every difference between the plan and the request.
    """
    engine = deserialize(trt, plan, logger=logger, where=where, allow_host_code=True)
    interface = read_interface(trt, engine)
    inspection = inspect_engine(trt, engine, interface)
    problems = [
        *_tensor_problems("input", graph.inputs, interface.inputs),
        *_tensor_problems("output", graph.outputs, interface.outputs),
        *_profile_problems(interface, shapes),
        *_inspection_problems(inspection, interface, graph),
    ]
    if problems:
        raise UserError("the built plan differs from the request", where=where, value="; ".join(problems))
    memory = [engine.get_device_memory_size_for_profile_v2(index) for index in range(interface.profiles)]
    return {
        "layers": inspection.layers,
        "layer_formats": inspection.float_formats or NOT_REPORTED,
        "context_memory_mib": [round(size / 2**20, 1) for size in memory],
    }


def _tensor_problems(role: str, asked: Sequence[OnnxTensor], got: Sequence[PlanTensor]) -> Iterator[str]:
    names = [tensor.name for tensor in asked], [tensor.name for tensor in got]
    if sorted(names[0]) != sorted(names[1]):
        yield f"{role}s are {names[1]} instead of {names[0]}"
        return
    plan = {tensor.name: tensor for tensor in got}
    for tensor in asked:
        other = plan[tensor.name]
        if DTYPE_OF_FORMAT.get(tensor.format) != other.dtype:
            yield f"{role} {tensor.name} is {other.dtype} instead of {tensor.format}"
        if not _same_shape(tensor.dims, other):
            yield f"{role} {tensor.name} has shape {list(other.shape)} instead of {list(tensor.dims)}"


def _same_shape(asked: Sequence[int | str], got: PlanTensor) -> bool:
    """A size known on both sides must agree; -1 and a named dimension are both unknown sizes."""
    return len(asked) == len(got.shape) and all(
        isinstance(one, str) or other in (-1, one) for one, other in zip(asked, got.shape, strict=True)
    )


def _profile_problems(interface: PlanInterface, shapes: Sequence[Mapping[str, Bounds]]) -> Iterator[str]:
    if interface.profiles != max(len(shapes), 1):
        yield f"{interface.profiles} profiles instead of {len(shapes)}"
        return
    for tensor in interface.inputs:
        for index, asked in enumerate(shapes):
            got = tensor.bounds[index]
            if tensor.name in asked and got != asked[tensor.name]:
                yield f"profile {index} of {tensor.name} is {got} instead of {asked[tensor.name]}"


def _inspection_problems(inspection: Inspection, interface: PlanInterface, graph: OnnxInterface) -> Iterator[str]:
    names = {tensor.name for tensor in (*interface.inputs, *interface.outputs)}
    if inspection.tensors and set(inspection.tensors) != names:
        yield f"the inspector lists {sorted(inspection.tensors)}, the engine {sorted(names)}"
    seen = set(inspection.float_formats)
    if seen and graph.precision not in seen:
        yield f"no layer computes in {graph.precision}, they compute in {', '.join(sorted(seen))}"
    if foreign := seen - graph.float_formats:
        yield f"layers compute in {', '.join(sorted(foreign))}, which the graph does not have"
