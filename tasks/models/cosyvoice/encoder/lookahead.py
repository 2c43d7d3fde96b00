"""The look-ahead convolutions of the CosyVoice 2 encoder and the CosyVoice 3 flow."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PreLookaheadLayer(nn.Module):
    """A convolution over ``pre_lookahead_len`` positions ahead, then one over two positions behind, with a residual.

    Original parameter names: conv1 (channels, in, n+1), conv2 (in, channels, 3).
    """

    def __init__(self, in_channels: int, channels: int, pre_lookahead_len: int = 1) -> None:
        super().__init__()
        self.pre_lookahead_len = pre_lookahead_len
        self.conv1 = nn.Conv1d(in_channels, channels, pre_lookahead_len + 1)
        self.conv2 = nn.Conv1d(channels, in_channels, 3)

    def sizes(self) -> dict[str, int]:
        return {"mel": self.conv2.out_channels}

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C); ``context`` (B, n, C): the n positions that follow; None or empty for zeros."""
        x = inputs.transpose(1, 2)
        if context is None or context.size(1) == 0:
            x = F.pad(x, (0, self.pre_lookahead_len))
        else:
            x = torch.cat((x, context.transpose(1, 2)), dim=2)
        x = F.leaky_relu(self.conv1(x))
        return self.conv2(F.pad(x, (2, 0))).transpose(1, 2) + inputs
