"""Trains one part of a model and writes a checkpoint with its sidecar after every epoch, in the original format.

The loss is the module's own; the batches come from the model's data function.
"""

from typing import Any

import torch
import yaml
from torch import nn

from tasks.job import Job
from tasks.models.loading.checkpoint_file import save_checkpoint
from tasks.objects import load_object
from tasks.progress import progress
from tasks.training.trainer import Trainer, seed_draws

THREADS = 1  # sums depend on it, and so would the weights; the demo's tensors are too small to gain from more


def run(job: Job) -> dict[str, Any]:
    """Train the part that `config` describes; write `epoch_N_whole.pt` and `epoch_N_whole.yaml` for every epoch N.

    On one machine one seed gives the same bytes again, however many threads the job is given.

    Params:
        train: `max_epoch`, `steps_per_epoch`, `batch_size`, `lr`, `warmup_steps`, `grad_clip`,
            `validation_batches`, `seed`.
        part: what to train, `flow`.
        loader: ``module:function``, called as ``loader(part, config=Path)``. What it builds is called with a batch
            and a device and returns `{"loss": scalar}`.
        data: ``module:function``, called as ``data(count=, batch_size=, seed=)``; yields batches, dicts of tensors
            whose first dimension is that of the items.

    Raises:
        UserError: whatever the loader raises.
    """
    torch.set_num_threads(THREADS)
    settings, part = job.params["train"], job.params["part"]
    seed_draws(settings["seed"], "weights")
    module: nn.Module = load_object(job.params["loader"])(part, config=job.inputs["config"])
    trainer = Trainer(module, load_object(job.params["data"]), settings)
    losses = []
    for epoch in progress(range(settings["max_epoch"]), label=f"train {part}"):
        trained = trainer.train(epoch)
        losses.append(trainer.validate())
        sidecar = settings | trained | {"model": part, "epoch": epoch, "tag": "CV", "loss_dict": {"loss": losses[-1]}}
        _save(module, sidecar, job)
    return {"validation_losses": losses, "parameters": sum(parameter.numel() for parameter in module.parameters())}


def _save(module: nn.Module, sidecar: dict[str, Any], job: Job) -> None:
    name = f"epoch_{sidecar['epoch']}_whole"
    bookkeeping = {"epoch": sidecar["epoch"], "step": sidecar["step"]}
    save_checkpoint(module.state_dict() | bookkeeping, job.outputs[f"{name}.pt"])
    job.outputs[f"{name}.yaml"].write_text(yaml.safe_dump(sidecar), encoding="utf-8")
