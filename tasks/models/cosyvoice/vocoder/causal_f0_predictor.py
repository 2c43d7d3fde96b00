"""The pitch predictor of the CosyVoice 3 vocoder: three frames of look-ahead, evaluated in double precision."""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import weight_norm

from tasks.models.cosyvoice.vocoder.causal_conv import CausalConv1d


class CausalConvRNNF0Predictor(nn.Module):
    """Mel to pitch with five convolutions; the first sees frames ahead, the others the past."""

    def __init__(self, *, num_class: int = 1, in_channels: int = 80, cond_channels: int = 512) -> None:
        super().__init__()
        first = CausalConv1d(in_channels, cond_channels, kernel_size=4, side="right")
        self.look_ahead = first.reach
        self.condnet = nn.Sequential(weight_norm(first), nn.ELU())
        for _ in range(4):
            self.condnet.append(weight_norm(CausalConv1d(cond_channels, cond_channels, kernel_size=3)))
            self.condnet.append(nn.ELU())
        self.classifier = nn.Linear(cond_channels, num_class)

    def forward(self, mel: Tensor, finalize: bool = True) -> Tensor:
        """Pitch of a mel, computed in the dtype of the parameters.

        Args:
            mel: [batch, in_channels, frames].
            finalize: this is the end of the mel; otherwise its last three frames are look-ahead.

        Returns:
            [batch, frames] in Hz; three frames shorter if not ``finalize``.
        """
        first, *rest = self.condnet
        x = first(mel) if finalize else first(mel[:, :, : -self.look_ahead], mel[:, :, -self.look_ahead :])
        for layer in rest:
            x = layer(x)
        return torch.abs(self.classifier(x.transpose(1, 2)).squeeze(-1))

    def in_double(self, mel: Tensor, finalize: bool = True) -> Tensor:
        """``forward`` in float64, rounded to the dtype of ``mel``; the parameters keep their dtype.

        The excitation accumulates the pitch over the utterance, so rounding errors become audible. The original
        implementation converts the module itself to float64 permanently.
        """
        doubled = {name: parameter.double() for name, parameter in self.named_parameters()}
        return functional_call(self, doubled, (mel.double(), finalize)).to(mel.dtype)
