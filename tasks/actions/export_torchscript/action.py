"""Exports one component as a TorchScript file that needs none of this project's code to run.

Script, freeze, and then only the optimizations that the device it is meant for allows.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.jit import ScriptModule

from tasks.actions.export_torchscript.archive import save_reproducibly
from tasks.actions.original import load_original, unwrapped
from tasks.errors import UserError
from tasks.job import Job
from tasks.models.loading.strict_loading import all_finite
from tasks.runtimes.base import torch_dtype
from tasks.runtimes.torchscript import nodes_of
from tasks.settings.component import ComponentSpec
from tasks.settings.number_formats import BY_NAME

DEVICE_SPECIFIC = re.compile("mkldnn|prepacked|cudnn|miopen", re.IGNORECASE)
UNSAVEABLE = "prim::ConstantMKLDNNTensor"  # written without its value, so the file could not be read back


def run(job: Job) -> dict[str, Any]:
    """Export the component of `job.params` from `config` and `weights` to `zip`.

    Params:
        component: a `ComponentSpec`. Its options stay keyword arguments of the exported module.
        precision: `name`, fp32, fp16 or bf16; the file takes and returns the same.
        torchscript: `target` and `optimize`, see `compiled`.

    Raises:
        UserError: no CUDA for target cuda; weights that are not finite in this precision; a fixed device in a
            portable file; whatever the loader raises.
    """
    component, precision = ComponentSpec.from_params(job.params["component"]), job.params["precision"]["name"]
    settings = job.params["torchscript"]
    module = _loaded(job, component, precision=precision, target=settings["target"])
    with _deployed_executor():
        scripted, optimized = compiled(module, kept_methods=component.kept_methods, **settings)
    about = {"component": component.name, "precision": precision, "target": settings["target"]}
    about |= {"torch": torch.__version__, "options": component.options}
    weights_bytes = save_reproducibly(scripted, job.outputs["torchscript"], about=json.dumps(about, sort_keys=True))
    graphs = _graphs(scripted, component.kept_methods)
    return about | {
        "bytes": job.outputs["torchscript"].stat().st_size,
        "weights_bytes": weights_bytes,
        "nodes": sum(1 for graph in graphs for _ in nodes_of(graph)),
        "optimized_for_inference": optimized,
        "device_specific_ops": _device_specific(graphs),
        **unwrapped(job.inputs["weights"]),
    }


def compiled(
    module: nn.Module, *, kept_methods: Sequence[str], target: str, optimize: bool
) -> tuple[ScriptModule, bool]:
    """The module scripted, frozen and optimized; and whether `optimize_for_inference` was applied to it.

    Args:
        module: in eval mode, on the device it is optimized for.
        kept_methods: exported methods that stay callable beside `forward`. They share its weights.
        target: `cpu` and `cuda` allow operators that only that device has. `portable` is frozen and folded by
            device-neutral passes only, and runs on either.
        optimize: False leaves out all optimization but freezing itself.
    """
    kept = list(kept_methods)
    scripted = torch.jit.script(module)
    frozen = torch.jit.freeze(scripted, preserved_attrs=kept, optimize_numerics=optimize)
    if target == "portable":
        _require_no_fixed_device(_graphs(frozen, kept))
    if target == "portable" or not optimize or _is_half_on_cpu(module):
        return frozen, False
    # Unless the kept methods are named, forward gets transposed copies of weights that they hold as they were.
    optimized = torch.jit.optimize_for_inference(frozen, other_methods=kept)
    if any(node.kind() == UNSAVEABLE for graph in _graphs(optimized, kept) for node in nodes_of(graph)):
        return torch.jit.freeze(scripted, preserved_attrs=kept), False  # optimized and frozen are one and the same
    return optimized, True


def _loaded(job: Job, component: ComponentSpec, *, precision: str, target: str) -> nn.Module:
    if target == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "a file for CUDA can only be optimized on a machine with CUDA",
            where=job.step,
            value="torchscript.target=cuda",
            remedy="Set torchscript.target=portable, which runs on both, or export on the GPU machine",
        )
    module: nn.Module = load_original(job, component)
    module.eval().to(device="cuda" if target == "cuda" else "cpu", dtype=torch_dtype(BY_NAME[precision]))
    _require_finite(module, job.inputs["weights"], precision)
    return module


def _require_finite(module: nn.Module, weights: Path, precision: str) -> None:
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not all_finite(tensor):
            raise UserError(
                f"weights are NaN or infinite in {precision}",
                where=weights,
                value=name,
                remedy="Use another checkpoint" if precision == "fp32" else "Try precision=fp32",
            )


@contextmanager
def _deployed_executor() -> Iterator[None]:
    """Executor settings of the original export scripts: static fusion of depth 1, no profiling."""
    fusion = torch._C._jit_set_fusion_strategy([("STATIC", 1)])
    mode = torch._C._jit_set_profiling_mode(False)
    executor = torch._C._jit_set_profiling_executor(False)
    try:
        yield
    finally:
        torch._C._jit_set_profiling_executor(executor)
        torch._C._jit_set_profiling_mode(mode)
        torch._C._jit_set_fusion_strategy(fusion)


def _is_half_on_cpu(module: nn.Module) -> bool:
    """Whether optimizing would harm: it transposes weights; then (400, 1024) @ (1024, 4096) takes 5 s, not 0.1 s.

    In bf16 that product and its inverse take 17 s, not 1.
    """
    half = {torch.float16, torch.bfloat16}
    return all(weight.dtype in half and weight.device.type == "cpu" for weight in module.parameters())


def _graphs(module: ScriptModule, kept_methods: Sequence[str]) -> list[Any]:
    return [getattr(module, name).graph for name in ("forward", *kept_methods)]


def _device_specific(graphs: list[Any]) -> list[str]:
    return sorted({node.kind() for graph in graphs for node in nodes_of(graph) if DEVICE_SPECIFIC.search(node.kind())})


def _require_no_fixed_device(graphs: list[Any]) -> None:
    constants = [node.output() for graph in graphs for node in nodes_of(graph) if node.kind() == "prim::Constant"]
    for constant in constants:
        if constant.type().kind() == "DeviceObjType":
            raise UserError(
                "the model's code takes a fixed device, so the file would not be portable",
                where=" ".join(constant.uses()[0].user.sourceRange().split()),
                value=str(constant.toIValue()),
                remedy="Take the device from an input in the model's code, or set torchscript.target",
            )
