"""Records inputs of a component during the model's own inference, for verification to try beside generated ones."""

from typing import Any

from torch import Tensor

from tasks.errors import UserError
from tasks.job import Job
from tasks.models.loading.checkpoint_file import save_checkpoint
from tasks.objects import load_object
from tasks.settings.component import ComponentSpec


def run(job: Job) -> dict[str, Any]:
    """Run the model of `config` and `weights`; write `recorded`, tensors named ``CALL/INPUT``.

    Params:
        component: a `ComponentSpec`.
        recorder: ``module:function``, called as ``recorder(component, config=Path, weights=Path)``.

    Returns:
        The calls, each with the shapes of its inputs.

    Raises:
        UserError: the model cannot be built, or feeds its own component NaN or Inf.
    """
    component = ComponentSpec.from_params(job.params["component"])
    record = load_object(job.params["recorder"])
    calls = record(component, config=job.inputs["config"], weights=job.inputs["weights"])
    tensors = {f"{call}/{name}": tensor for call, inputs in calls.items() for name, tensor in inputs.items()}
    _require_finite(tensors, component, job)
    save_checkpoint(tensors, job.outputs["recorded"])
    return {"calls": {call: {name: list(x.shape) for name, x in inputs.items()} for call, inputs in calls.items()}}


def _require_finite(tensors: dict[str, Tensor], component: ComponentSpec, job: Job) -> None:
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"in the original model itself inputs of {component.name} are NaN or Inf",
            where=job.inputs["weights"],
            value=broken[0],
            remedy="Check its training; to verify without recorded inputs, set verify.real_inputs=false",
        )
