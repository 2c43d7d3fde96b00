"""The flow encoder of CosyVoice 2: conformer layers at the token rate, then at twice that rate.

State-dict names are those of the original implementation; widths that are 512 there follow ``output_size`` here.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from tasks.models.cosyvoice.encoder.espnet_layers import (
    ConformerLayer,
    InputProjection,
    LayerOptions,
    require_supported,
)
from tasks.models.cosyvoice.encoder.lookahead import PreLookaheadLayer
from tasks.models.cosyvoice.encoder.positions import RelativePositions
from tasks.models.cosyvoice.masks import attention_bias, attention_mask, valid_mask

UP_LAYERS = 4
STRIDE = 2
SUPPORTED = {  # the only supported values
    "normalize_before": True,
    "input_layer": "linear",
    "pos_enc_layer_type": "rel_pos_espnet",
    "selfattention_layer_type": "rel_selfattn",
    "activation_type": "swish",
    "use_cnn_module": False,
    "macaron_style": False,
    "use_dynamic_chunk": False,
}


class Upsample(nn.Module):
    """Repeats each position ``STRIDE`` times, then a causal convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stride = STRIDE
        self.conv = nn.Conv1d(width, width, STRIDE * 2 + 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, 2T, D)."""
        x = x.repeat_interleave(self.stride, dim=1).transpose(1, 2)
        return self.conv(F.pad(x, (self.stride * 2, 0))).transpose(1, 2)


class UpsampleConformerEncoder(nn.Module):
    """Token embeddings (B, T, input_size) -> hidden states (B, 2T, output_size)."""

    def __init__(
        self,
        *,
        input_size: int,
        output_size: int = 256,
        attention_heads: int = 4,
        linear_units: int = 2048,
        num_blocks: int = 6,
        dropout_rate: float = 0.1,
        positional_dropout_rate: float = 0.1,
        attention_dropout_rate: float = 0.0,
        static_chunk_size: int = 0,
        key_bias: bool = True,
        pre_lookahead_len: int = 3,
        **unused: object,
    ) -> None:
        super().__init__()
        require_supported("UpsampleConformerEncoder", unused, SUPPORTED)
        if input_size != output_size:  # both projections have the same input width in the original implementation, too
            raise ValueError(f"input_size {input_size} and output_size {output_size} must be equal")
        self.input_size, self.width = input_size, output_size
        self.static_chunk_size = static_chunk_size
        self.embed = InputProjection(
            input_size, output_size, dropout=dropout_rate, positional_dropout=positional_dropout_rate
        )
        self.positions = RelativePositions(output_size)
        self.pre_lookahead_layer = PreLookaheadLayer(output_size, output_size, pre_lookahead_len)
        self.up_layer = Upsample(output_size)
        self.up_embed = InputProjection(
            input_size, output_size, dropout=dropout_rate, positional_dropout=positional_dropout_rate
        )
        options = LayerOptions(attention_heads, linear_units, dropout_rate, attention_dropout_rate, key_bias)
        self.encoders = nn.ModuleList(ConformerLayer(output_size, options) for _ in range(num_blocks))
        self.up_encoders = nn.ModuleList(ConformerLayer(output_size, options) for _ in range(UP_LAYERS))
        self.after_norm = nn.LayerNorm(output_size, eps=1e-5)

    def sizes(self) -> dict[str, int]:
        return {"width": self.input_size}

    def output_size(self) -> int:
        return self.width

    def forward(
        self, xs: Tensor, xs_lens: Tensor, context: Tensor | None = None, streaming: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Encode token embeddings.

        Args:
            xs: (B, T, input_size).
            xs_lens: int (B,), valid positions of each item (look-ahead tokens may be included).
            context: (B, pre_lookahead_len, input_size), the embeddings that follow xs; None or empty for none.
            streaming: limit attention to the end of the position's own chunk.

        Returns:
            (B, 2T, output_size) and the padding mask, bool (B, 1, 2T), True on valid positions.
        """
        x = self.embed(xs)
        if context is not None and context.size(1) > 0:
            context = self.embed(context)
        x = self.pre_lookahead_layer(x, context)
        chunk_size = self.static_chunk_size if streaming else 0
        valid = valid_mask(xs_lens, xs.size(1))
        bias, positions = self._attention_inputs(x, attention_mask(valid, chunk_size))
        for layer in self.encoders:
            x = layer(x, bias, positions, valid)
        x = self.up_embed(self.up_layer(x))
        valid = valid_mask(xs_lens * self.up_layer.stride, x.size(1))
        bias, positions = self._attention_inputs(x, attention_mask(valid, chunk_size * self.up_layer.stride))
        for layer in self.up_encoders:
            x = layer(x, bias, positions, valid)
        return self.after_norm(x), valid

    def _attention_inputs(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return attention_bias(mask, x.dtype), self.embed.dropout(self.positions(x, x.size(1)))
