"""Small modules that each have one thing an ONNX export or a conversion to fp16 must deal with."""

from pathlib import Path

import torch
from torch import Tensor, nn

from tasks.models.loading.checkpoint_file import open_checkpoint
from tasks.settings.component import ComponentSpec


class Plain(nn.Module):
    """A projection over channels: (B, 8, T) -> (B, 8, T)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.projection = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(x.transpose(1, 2)).transpose(1, 2)


class Overflowing(Plain):
    """Has ordinary inputs and outputs, and values a million times larger between."""

    def forward(self, x: Tensor) -> Tensor:
        positive = (super().forward(x) * 1000.0).tanh().abs() + 1.0
        return positive * 1000.0 * 1000.0 / 1000.0 / 1000.0


class OverflowingOutput(Plain):
    """Has outputs beyond the range of fp16."""

    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x).abs() + 1.0) * 1000.0 * 1000.0


class Chaotic(Plain):
    """Turns every rounding into another output, as a vocoder of too large weights does."""

    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x) * 1e9).sin()


class LogOfNegative(Plain):
    """Is NaN wherever the projection is negative."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).log() * 2.0


class BeyondHalf(Plain):
    """Multiplies by a number that fp16 does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1e-3 * 1e5 * 1e-2


class Masked(Plain):
    """Attends over time with masks of -1e10, as the original models have them."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = super().forward(x)
        scores = hidden.transpose(1, 2) @ hidden
        later = torch.ones_like(scores).triu(1)
        return hidden @ torch.softmax(scores + later * -1e10, dim=-1).transpose(1, 2)


class Forbidden(Plain):
    """Attends over time with masks of fp32's lowest number, or with minus infinity."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = super().forward(x)
        scores = hidden.transpose(1, 2) @ hidden
        later = torch.ones_like(scores).triu(1).bool()
        lowest = scores.masked_fill(later, torch.finfo(torch.float32).min)
        never = scores.masked_fill(later, float("-inf"))
        return hidden @ (torch.softmax(lowest, dim=-1) + torch.softmax(never, dim=-1)).transpose(1, 2)


class Clock(Plain):
    """Adds the sine of an angle of some hundred radians."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0.01 + torch.sin(x * 300.0)


class Positions(Plain):
    """Adds the number of each frame, counted in floats."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.arange(x.size(2), device=x.device, dtype=torch.float32) / 4096


class Bits(nn.Module):
    """Keeps the two lowest bits of a rounded number: an operator that few engines have."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.int32) & 3).to(x.dtype)


class Unreadable(Plain):
    """Has an operator deep inside that TensorRT's parser does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Tanh(), Bits())])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[0](super().forward(x))


class FixedLength(Plain):
    """Uses the length of the sample as a number."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * int(x.sum() > 0)


class IgnoresInput(Plain):
    """Takes another input and does not read it."""

    def forward(self, unread: Tensor, x: Tensor) -> Tensor:
        return super().forward(x)


class Tokens(nn.Module):
    """Token ids (B, T), which of them are valid, and a speed (B) between 0.5 and 2 -> (B, T, 8)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(12, 8)

    def forward(self, ids: Tensor, valid: Tensor, speed: Tensor) -> Tensor:
        return self.embedding(ids) * valid.unsqueeze(2) / speed[:, None, None]


class Seven(nn.Module):
    """Scales seven vectors of seven lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(  # noqa: PLR0917 - as many inputs as it is about
        self, a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor, g: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        s = self.scale
        return a * s, b * s, c * s, d * s, e * s, f * s, g * s


def load_component(component: ComponentSpec, *, config: Path, weights: Path) -> nn.Module:
    """The class that the last part of the component's name is, with its weights."""
    module = globals()[component.name.rpartition(".")[2]]()
    module.load_state_dict(open_checkpoint(weights))
    return module.eval()
