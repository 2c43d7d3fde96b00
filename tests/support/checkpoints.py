"""Training checkpoints with sidecars, made from a set of weights by adding noise."""

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml


def write_checkpoints(folder: Path, weights: Path, *, losses: Sequence[float]) -> None:
    """One `epoch_N_whole.pt` and `.yaml` for each loss."""
    for epoch, loss in enumerate(losses):
        write_checkpoint(folder, weights, epoch=epoch, loss=loss)


def write_checkpoint(folder: Path, weights: Path, *, epoch: int, loss: float, seed: int | None = None) -> None:
    """Epoch `epoch`: the weights with a little noise drawn from `seed` (the epoch's number if not given)."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(epoch if seed is None else seed)
    noisy = {
        name: tensor + 0.01 * tensor.abs().mean() * torch.randn(tensor.shape, generator=generator)
        for name, tensor in torch.load(weights, weights_only=True).items()
    }
    torch.save({**noisy, "epoch": epoch, "step": 100 * epoch}, folder / f"epoch_{epoch}_whole.pt")
    sidecar = {"epoch": epoch, "step": 100 * epoch, "tag": "CV", "loss_dict": {"loss": loss}}
    (folder / f"epoch_{epoch}_whole.yaml").write_text(yaml.safe_dump(sidecar))
