"""The pitch predictor of the CosyVoice 1 and 2 vocoders."""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class ConvRNNF0Predictor(nn.Module):
    """Mel to pitch with five convolutions; in spite of the original name it has no recurrent layer."""

    def __init__(self, *, num_class: int = 1, in_channels: int = 80, cond_channels: int = 512) -> None:
        super().__init__()
        self.condnet = nn.Sequential()
        for channels in (in_channels, *[cond_channels] * 4):
            self.condnet.append(weight_norm(nn.Conv1d(channels, cond_channels, kernel_size=3, padding=1)))
            self.condnet.append(nn.ELU())
        self.classifier = nn.Linear(cond_channels, num_class)

    def forward(self, mel: Tensor) -> Tensor:
        """Mel [batch, in_channels, frames] -> pitch [batch, frames] in Hz."""
        return torch.abs(self.classifier(self.condnet(mel).transpose(1, 2)).squeeze(-1))
