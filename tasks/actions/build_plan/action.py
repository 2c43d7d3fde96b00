"""Builds a TensorRT plan from an ONNX file for the GPU of this machine, and checks the plan before it is stored."""

import time
from typing import Any

from tasks.actions.build_plan.builder import PlanRequest, build_engine
from tasks.actions.build_plan.onnx_interface import OnnxInterface, check_precision, describe_interface, load_graph
from tasks.actions.build_plan.profile_shapes import profile_shapes
from tasks.actions.build_plan.readback import read_back
from tasks.actions.build_plan.timing_cache import TimingCache
from tasks.errors import UserError
from tasks.job import Job
from tasks.machine.gpus import Gpu, gpus
from tasks.machine.tensorrt_install import build_obstacle
from tasks.runtimes.tensorrt_.interface import label
from tasks.runtimes.tensorrt_.library import collecting_logger, import_tensorrt
from tasks.settings.component import ComponentSpec
from tasks.settings.shape_profiles import complete_profiles

WARNINGS_KEPT = 5


def run(job: Job) -> dict[str, Any]:
    """Build `outputs["plan"]` from `inputs["onnx"]`.

    Returns:
        For the receipt: GPU, driver, TensorRT, profiles, layers and their formats, context memory, seconds.

    Raises:
        UserError: if there is no GPU or TensorRT, a setting is impossible, TensorRT refuses the graph or the build, or
            the plan is not as requested.
    """
    found = gpus()
    if not found:
        reason, remedy = build_obstacle() or ("no NVIDIA GPU", "")
        raise UserError(reason, where=job.step, remedy=remedy)
    return build(job, trt=import_tensorrt(), gpu=found[0])


def build(job: Job, *, trt: Any, gpu: Gpu) -> dict[str, Any]:
    """`run` with TensorRT and the GPU given."""
    _check_gpu(job, gpu)
    component = ComponentSpec.from_params(job.params["component"])
    onnx, settings = job.inputs["onnx"], job.params["tensorrt"]
    graph = describe_interface(load_graph(onnx))
    check_precision(graph, job.params["precision"]["name"], where=onnx)
    shapes = profile_shapes(graph, component, settings)
    request = PlanRequest(onnx, _label(graph, component), shapes, settings, job.threads)
    logger = collecting_logger(trt)
    cache = TimingCache(job.local.get("timing_cache"), tensorrt=trt.__version__, gpu=gpu.slug)
    started = time.monotonic()
    plan = build_engine(trt, request, logger=logger, cache=cache)
    seconds = time.monotonic() - started
    seen = read_back(trt, plan, graph=graph, shapes=shapes, logger=logger, where=job.outputs["plan"])
    job.outputs["plan"].write_bytes(plan)
    profiles = complete_profiles(component.axes, settings)
    return {
        **_machine(trt, gpu),
        "profiles": [{axis: list(sizes) for axis, sizes in profile.items()} for profile in profiles],
        **seen,
        "plan_mib": round(len(plan) / 2**20, 1),
        "build_seconds": round(seconds, 1),
        "timing_cache": cache.state,
        "warnings": logger.warnings[:WARNINGS_KEPT],
    }


def _check_gpu(job: Job, gpu: Gpu) -> None:
    """The file's name was chosen before this process started; it must be right."""
    named = job.params.get("gpu", gpu.slug)
    if named != gpu.slug:
        remedy = "Set CUDA_DEVICE_ORDER=PCI_BUS_ID, or CUDA_VISIBLE_DEVICES to the one GPU, for both"
        raise UserError(
            "the plan would be built on another GPU than its name has",
            where=named,
            value=gpu.slug,
            remedy=remedy,
        )


def _label(graph: OnnxInterface, component: ComponentSpec) -> str:
    """Axis names of the graph's dynamic dimensions; sizes elsewhere."""
    shapes = {
        tensor.name: [axis if isinstance(dim, str) else dim for dim, axis in zip(tensor.dims, declared, strict=True)]
        for tensor in graph.inputs
        if (declared := component.inputs[tensor.name].shape)
    }
    return label(component.name, shapes)


def _machine(trt: Any, gpu: Gpu) -> dict[str, str]:
    return {
        "gpu": gpu.name,
        "compute_capability": gpu.compute_capability,
        "driver": gpu.driver,
        "tensorrt": trt.__version__,
    }
