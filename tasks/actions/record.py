"""Records inputs that a component really gets, for verification to try beside the made-up ones."""

from importlib import import_module
from typing import Any

from torch import Tensor

from tasks.errors import UserError
from tasks.job import Job
from tasks.models.loading.checkpoint_file import save_checkpoint


def run(job: Job) -> dict[str, Any]:
    """Let the model of `config` and `weights` run; write `recorded`, tensors named ``CALL/INPUT``.

    Params:
        component: declaration with `name`, `part` and `inputs`.
        recorder: module with ``record(component, *, config, weights)``.

    Returns:
        The calls, each with the shapes of its inputs.

    Raises:
        UserError: the model cannot be built, or feeds its own component NaN or Inf.
    """
    calls = import_module(job.params["recorder"]).record(
        job.params["component"], config=job.inputs["config"], weights=job.inputs["weights"]
    )
    tensors = {f"{call}/{name}": tensor for call, inputs in calls.items() for name, tensor in inputs.items()}
    _require_finite(tensors, job)
    save_checkpoint(tensors, job.outputs["recorded"])
    return {"calls": {call: {name: list(x.shape) for name, x in inputs.items()} for call, inputs in calls.items()}}


def _require_finite(tensors: dict[str, Tensor], job: Job) -> None:
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"the original model itself feeds {job.params['component']['name']} NaN or Inf while it speaks",
            where=job.inputs["weights"],
            value=broken[0],
            remedy="Look at its training; to verify without its own inputs, verify.real_inputs=off",
        )
