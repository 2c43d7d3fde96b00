"""A training loop on one device: epochs of seeded batches, and the validation loss after each."""

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

Batches = Callable[..., Iterator[dict[str, Tensor]]]


class Trainer:
    """Adam with the original `warmuplr` schedule, gradients clipped, steps with infinite gradients left out."""

    def __init__(self, module: nn.Module, batches: Batches, settings: dict[str, Any]) -> None:
        self.module = module
        self.batches = batches
        self.settings = settings
        self.optimizer = torch.optim.Adam(module.parameters(), lr=settings["lr"])
        self.schedule = LambdaLR(self.optimizer, warmup(settings["warmup_steps"]))
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


def warmup(steps: int) -> Callable[[int], float]:
    """The original `warmuplr` as a factor of lr: linear for `steps` steps, then falling with their square root."""
    warm = max(steps, 1)
    return lambda done: warm**0.5 * min((done + 1) ** -0.5, (done + 1) * warm**-1.5)
