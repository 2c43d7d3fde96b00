"""Relative sinusoidal positions of the ESPnet-style encoders, computed on the fly.

Without a stored table of positions, exported files are smaller and the length is not limited.
"""

import torch
from torch import Tensor

from tasks.models.cosyvoice.frequencies import Frequencies, decaying


class RelativePositions(Frequencies):
    """Encodings of relative positions: even channels are sin(p w_i), odd ones cos(p w_i).

    w_i = 10000^(-2i/D) (Transformer-XL, arXiv 1901.02860).
    """

    def __init__(self, width: int) -> None:
        super().__init__(decaying((width + 1) // 2, width / 2))

    def forward(self, reference: Tensor, size: int) -> Tensor:
        """Positions size-1 ... -(size-1), as (1, 2*size-1, D), in the dtype and on the device of ``reference``.

        Angles are computed in fp32 for every dtype.
        """
        # The tracing exporter fixes the length to that of the example for every arange except counting up from 0.
        positions = (size - 1 - torch.arange(2 * size - 1, device=reference.device)).float()
        angles = positions.unsqueeze(1) * self.inv_freq
        table = torch.stack((torch.sin(angles), torch.cos(angles)), dim=2).flatten(1)
        return table.unsqueeze(0).to(reference.dtype)
