"""What an artifact and the original must be like before any comparison of their outputs means something."""

from collections.abc import Sequence

import torch

from tasks.actions.export_onnx.low_precision_formats import LOW_PRECISIONS
from tasks.actions.inputs.generated import InputCase, dtype_of
from tasks.actions.verify.metrics import metrics
from tasks.errors import UserError
from tasks.job import Job
from tasks.runtimes.base import Runtime, name_of, torch_dtype
from tasks.runtimes.eager import PyTorchModule
from tasks.settings.component import ComponentSpec
from tasks.settings.number_formats import BY_NAME

AT_LEAST_FP32 = ("fp32", "fp64")
AGAIN = "Export it again"
REPEATED_DB = 60.0  # two runs on a GPU may add up in another order


def require_formats(formats: set[str], job: Job) -> None:
    """What one layer loses in a coarser format can be less than the rest of the artifact loses in its own.

    Raises:
        UserError: the artifact computes in a format that is neither its own nor fp32.
    """
    precision = job.params["precision"]["name"]
    others = sorted(formats - {precision, *AT_LEAST_FP32})
    allowed = precision if precision in AT_LEAST_FP32 else f"{precision} and fp32"
    _require_none(others, f"the artifact computes in a format other than {allowed}", job)


def require_dtypes(artifact: Runtime, component: ComponentSpec, job: Job) -> None:
    """An input that loses digits would lose them on the original's side as well, and no output would show it.

    Raises:
        UserError: the artifact takes an input in another dtype than its own format or fp32.
    """
    precision = job.params["precision"]["name"]
    kept = LOW_PRECISIONS[precision].fp32_inputs(component) if precision in LOW_PRECISIONS else ()
    wrong = []
    for name, found in artifact.dtypes.items():
        if name not in component.inputs or not dtype_of(component.inputs[name]).is_floating_point:
            continue
        allowed = {torch.float32} if name in kept else {torch.float32, torch_dtype(BY_NAME[precision])}
        if found not in allowed:
            wrong.append(f"{name} in {name_of(found)}, not {' or '.join(sorted(map(name_of, allowed)))}")
    _require_none(wrong, "the artifact takes inputs in another format than was declared", job)


def require_outputs(artifact: Runtime, component: ComponentSpec, job: Job) -> None:
    """Whoever runs an artifact asks for its outputs by their names, and has room for them in its own format.

    Raises:
        UserError: the artifact's outputs have other names than were declared, or floats in another format.
    """
    names, precision = list(artifact.outputs), job.params["precision"]["name"]
    if names and names != list(component.outputs):
        _require_none(names, f"the artifact's outputs are not {', '.join(component.outputs)}", job)
    floats = {name: name_of(dtype) for name, dtype in artifact.outputs.items() if dtype.is_floating_point}
    wrong = [f"{name} in {found}, not {precision}" for name, found in floats.items() if found != precision]
    _require_none(wrong, "the artifact returns outputs in another format than was declared", job)


def require_dynamic(artifact: Runtime, component: ComponentSpec, job: Job) -> None:
    """An artifact that fixes an axis would only be tried at that size, and fail at every other in deployment.

    Raises:
        UserError: the artifact fixes an axis that is declared dynamic.
    """
    fixed = component.fixed_sizes(artifact.shapes)
    axes = {name: axis for name, axis in component.axes.items() if axis.dynamic and axis.min < axis.max}
    wrong = [f"{name}={size}" for name, size in fixed.items() if name in axes]
    remedy = f"{AGAIN}, or set model.axes.AXIS.dynamic=false"
    _require_none(wrong, "the artifact fixes an axis that is declared dynamic", job, remedy=remedy)


def require_repeatable(reference: PyTorchModule, case: InputCase, component: ComponentSpec) -> None:
    """What differs from itself cannot be compared with anything.

    Raises:
        UserError: two runs of the original on the same inputs give different outputs.
    """
    pairs = zip(component.outputs, reference(case.inputs), reference(case.inputs), strict=True)
    for name, first, second in pairs:
        result = metrics(first, second, rtol=0, atol=0)
        if result.finite and result.snr_db < REPEATED_DB:
            raise UserError(
                "the original gives other outputs for the same inputs",
                where=component.name,
                value=f"{name}: {result.snr_db:.3g} dB between two runs",
                remedy="Make its random numbers an input, and turn dropout off in eval()",
            )


def _require_none(wrong: Sequence[str], what: str, job: Job, *, remedy: str = AGAIN) -> None:
    if wrong:
        raise UserError(what, where=job.inputs["artifact"], value=", ".join(wrong), remedy=remedy)
