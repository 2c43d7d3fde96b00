"""Trains one part of a model and writes a checkpoint with its sidecar after every epoch, in the original format.

The loss is the module's own; the batches come from the model's data function.
"""

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from tasks.job import Job
from tasks.models.loading.checkpoint_file import save_checkpoint
from tasks.objects import load_object
from tasks.progress import progress

THREADS = 1  # sums depend on it, and so would the weights; the demo's tensors are too small to gain from more

Batches = Callable[..., Iterator[dict[str, Tensor]]]


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


class Trainer:
    """Adam with the original `warmuplr` schedule, gradients clipped, steps with infinite gradients left out."""

    def __init__(self, module: nn.Module, batches: Batches, settings: dict[str, Any]) -> None:
        self.module = module
        self.batches = batches
        self.settings = settings
        self.optimizer = torch.optim.Adam(module.parameters(), lr=settings["lr"])
        self.schedule = LambdaLR(self.optimizer, _warmup(settings["warmup_steps"]))
        self.steps = 0

    def train(self, epoch: int) -> dict[str, Any]:
        """One epoch; returns what the sidecar has of its last step: `step`, `batch_idx`, `lr`, `grad_norm`."""
        count = self.settings["steps_per_epoch"]
        self.module.train()
        grad_norm = math.nan
        for batch in self._batches(count, "train", epoch):
            self.optimizer.zero_grad()
            self.module(batch, "cpu")["loss"].backward()
            grad_norm = float(nn.utils.clip_grad_norm_(self.module.parameters(), self.settings["grad_clip"]))
            if math.isfinite(grad_norm):
                self.optimizer.step()
                self.schedule.step()
                self.steps += 1
        lr = float(self.schedule.get_last_lr()[0])
        return {"step": self.steps, "batch_idx": count - 1, "lr": lr, "grad_norm": grad_norm}

    @torch.inference_mode()
    def validate(self) -> float:
        """The mean loss over items not trained on; the same ones with the same draws after every epoch."""
        self.module.eval()
        weighted = [
            (float(self.module(batch, "cpu")["loss"]), len(next(iter(batch.values()))))  # items in the batch
            for batch in self._batches(self.settings["validation_batches"], "validate")
        ]
        return sum(loss * size for loss, size in weighted) / sum(size for _, size in weighted)

    def _batches(self, count: int, *purpose: object) -> Iterator[dict[str, Tensor]]:
        seed = seed_draws(self.settings["seed"], *purpose)
        return self.batches(count=count, batch_size=self.settings["batch_size"], seed=seed)


def seed_draws(*purpose: object) -> int:
    """Seed both generators that models draw from for one purpose, so that no phase depends on another's draws."""
    seed = random.Random(repr(purpose)).getrandbits(62)
    random.seed(seed)
    torch.manual_seed(seed)
    return seed


def _warmup(steps: int) -> Callable[[int], float]:
    """The original `warmuplr` as a factor of lr: linear for `steps` steps, then falling with their square root."""
    warm = max(steps, 1)
    return lambda done: warm**0.5 * min((done + 1) ** -0.5, (done + 1) * warm**-1.5)


def _save(module: nn.Module, sidecar: dict[str, Any], job: Job) -> None:
    name = f"epoch_{sidecar['epoch']}_whole"
    bookkeeping = {"epoch": sidecar["epoch"], "step": sidecar["step"]}
    save_checkpoint(module.state_dict() | bookkeeping, job.outputs[f"{name}.pt"])
    job.outputs[f"{name}.yaml"].write_text(yaml.safe_dump(sidecar), encoding="utf-8")
