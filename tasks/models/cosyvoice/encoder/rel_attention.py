"""Multi-head self-attention with relative positions (Transformer-XL), with an optional key/value cache.

State-dict names are those of the original implementation ("rel_selfattn").
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.models.cosyvoice.attention import attend


class RelPositionAttention(nn.Module):
    """softmax(((q + u) k' + shift((q + v) p')) / sqrt(d)) v, over ``heads`` heads of d = width / heads."""

    def __init__(self, width: int, heads: int, *, dropout: float, key_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = width // heads
        self.dropout = dropout
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width, bias=key_bias)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(heads, self.head_width))
        self.pos_bias_v = nn.Parameter(torch.empty(heads, self.head_width))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(self, x: Tensor, bias: Tensor, positions: Tensor) -> Tensor:
        """Attend within x.

        Args:
            x: (B, T, D).
            bias: additive mask, broadcastable to (B, heads, T, T).
            positions: relative positions T-1 ... -(T-1) as (1, 2T-1, D).
        """
        return self._attend(x, self._split(self.linear_k(x)), self._split(self.linear_v(x)), bias, positions)

    def forward_cached(self, x: Tensor, bias: Tensor, positions: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from x (B, T, D) to the cached and the new keys, n in total.

        Args:
            cache: (B, heads, n-T, 2d), keys and values side by side; n = T for none.
            bias: additive mask, broadcastable to (B, heads, T, n).
            positions: relative positions n-1 ... -(n-1) as (1, 2n-1, D).

        Returns:
            (B, T, D) and the extended cache (B, heads, n, 2d).
        """
        key = torch.cat((cache[..., : self.head_width], self._split(self.linear_k(x))), dim=2)
        value = torch.cat((cache[..., self.head_width :], self._split(self.linear_v(x))), dim=2)
        return self._attend(x, key, value, bias, positions), torch.cat((key, value), dim=3)

    def _attend(self, x: Tensor, key: Tensor, value: Tensor, bias: Tensor, positions: Tensor) -> Tensor:
        query = self.linear_q(x).view(x.size(0), -1, self.heads, self.head_width)
        # The last rows of the table belong to distances that no pair of query and key has.
        position = self._split(self.linear_pos(positions[:, : key.size(2) + x.size(1) - 1]))
        by_position = (query + self.pos_bias_v).transpose(1, 2) @ position.transpose(2, 3)
        attended = attend(
            (query + self.pos_bias_u).transpose(1, 2),
            key,
            value,
            bias=shift_relative(by_position, key.size(2)) * self.head_width**-0.5 + bias,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.linear_out(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1, self.heads, self.head_width).transpose(1, 2)


def shift_relative(scores: Tensor, keys: int) -> Tensor:
    """Scores by relative position -> by key, (B, h, T, n+T-1) -> (B, h, T, n): out[i, j] = scores[i, j + T-1-i].

    With one padded column, the shift of each row by one is a cut at the front of the flattened rows.
    """
    rows = scores.size(2)
    end_to_end = F.pad(scores, (1, 0)).flatten(2)[:, :, rows:]
    return end_to_end.view(scores.size(0), scores.size(1), rows, -1)[..., :keys]
