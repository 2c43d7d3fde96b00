"""Small scriptable modules for the export tests, found by name as an export finds a model's loader."""

from pathlib import Path

import torch
from torch import Tensor, nn

from tasks.models.loading.checkpoint_file import open_checkpoint
from tasks.settings.component import ComponentSpec

WIDTH = 32


class TwoMethods(nn.Module):
    """Two methods over the same weights, each using them in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 4 * WIDTH)
        self.second = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.second(torch.relu(self.first(x))) * scale

    @torch.jit.export
    def forward_chunk(self, x: Tensor, cache: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x + cache))) + cache


class Image(nn.Module):
    """What a CPU's optimizer turns into oneDNN operators."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


class FixedDevice(nn.Module):
    """Takes a device from a weight; freezing makes that device a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.arange(x.size(1), device=self.layer.weight.device)


def load_component(component: ComponentSpec, *, config: Path, weights: Path) -> nn.Module:
    """The class that the last part of the component's name is, with its weights."""
    module = globals()[component.name.rpartition(".")[2]]()
    module.load_state_dict(open_checkpoint(weights))
    return module.eval()
