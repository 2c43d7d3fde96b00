"""The ESPnet-style encoder of CosyVoice 1: whole sequences at once, or chunk by chunk with a growing cache.

A subclass provides the layers; parameter names are those of the original implementation.
"""

import torch
from torch import Tensor, nn

from tasks.models.cosyvoice.encoder.espnet_layers import InputProjection
from tasks.models.cosyvoice.encoder.positions import RelativePositions
from tasks.models.cosyvoice.masks import attention_bias, attention_mask, valid_mask


class EspnetEncoder(nn.Module):
    """Input projection, pre-norm layers with relative positions, a final LayerNorm."""

    def __init__(
        self,
        embed: InputProjection,
        layers: list[nn.Module],
        *,
        input_size: int,
        width: int,
        heads: int,
        static_chunk_size: int,
    ) -> None:
        super().__init__()
        self.input_size, self.width, self.heads = input_size, width, heads
        self.static_chunk_size = static_chunk_size
        self.embed = embed
        self.positions = RelativePositions(width)
        self.encoders = nn.ModuleList(layers)
        self.after_norm = nn.LayerNorm(width, eps=1e-5)

    @torch.jit.unused
    def forward_is_causal(self) -> bool:
        """Whether ``forward`` on a whole sequence equals ``forward_chunk`` position by position."""
        return self.static_chunk_size == 1

    def sizes(self) -> dict[str, int]:
        return {"width": self.input_size}

    def output_size(self) -> int:
        return self.width

    def forward(
        self, xs: Tensor, xs_lens: Tensor, decoding_chunk_size: int = 0, num_decoding_left_chunks: int = -1
    ) -> tuple[Tensor, Tensor]:
        """Encode whole sequences.

        Args:
            xs: (B, T, input_size).
            xs_lens: int (B,), valid positions of each item.
            decoding_chunk_size, num_decoding_left_chunks: kept for compatibility with the original implementation;
                ignored. ``static_chunk_size`` limits how far ahead a position sees (1: not at all; 0: no limit).

        Returns:
            (B, T, width) and the padding mask, bool (B, 1, T), True on valid positions.
        """
        valid = valid_mask(xs_lens, xs.size(1))
        x = self.embed(xs)
        bias = attention_bias(attention_mask(valid, self.static_chunk_size), x.dtype)
        positions = self.embed.dropout(self.positions(x, x.size(1)))
        for layer in self.encoders:
            x = layer(x, bias, positions, valid)
        return self.after_norm(x), valid

    @torch.jit.export
    def forward_chunk(  # noqa: PLR0917 - the original order, which C++ callers rely on
        self,
        xs: Tensor,
        offset: int,
        required_cache_size: int,
        att_cache: Tensor,
        cnn_cache: Tensor,
        att_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode the next chunk of one sequence.

        Args:
            xs: (1, T, input_size).
            offset: kept for compatibility with the original implementation; ignored, as positions are relative.
            required_cache_size: number of positions to keep for the next call; negative for all.
            att_cache: (layers, heads, t, 2 * width / heads), keys and values side by side; (0, 0, 0, 0) at the start.
            cnn_cache: the value returned by the previous call, (0, 0, 0, 0) at the start.
            att_mask: bool (1, T or 1, t + T or 1), True where a position may attend; (0, 0, 0) for no mask.

        Returns:
            (1, T, width), the extended att_cache, and cnn_cache: (layers, 1, width, kernel - 1) with causal
            convolutions, else (layers, 0, 0, 0).
        """
        x = self.embed(xs)
        keys = att_cache.size(2) + xs.size(1)
        first_kept = max(keys - required_cache_size, 0) if required_cache_size >= 0 else 0
        mask = (
            att_mask[:, :, :keys] if att_mask.size(2) > 0 else torch.ones(1, 1, keys, dtype=torch.bool, device=x.device)
        )
        bias = attention_bias(mask, x.dtype)
        positions = self.embed.dropout(self.positions(x, keys))
        nothing = torch.zeros(0, 0, 0, dtype=x.dtype, device=x.device)
        caches: list[Tensor] = []
        convolved: list[Tensor] = []
        for i, layer in enumerate(self.encoders):
            cache = att_cache[i : i + 1] if att_cache.size(0) > 0 else self._no_cache(x)
            before = cnn_cache[i] if cnn_cache.size(0) > 0 else nothing
            x, cache, before = layer.forward_cached(x, bias, positions, cache, before)  # type: ignore[operator]
            caches.append(cache[:, :, first_kept:])
            convolved.append(before)
        return self.after_norm(x), torch.cat(caches), torch.stack(convolved)

    def _no_cache(self, x: Tensor) -> Tensor:
        return torch.zeros(x.size(0), self.heads, 0, 2 * (self.width // self.heads), dtype=x.dtype, device=x.device)
