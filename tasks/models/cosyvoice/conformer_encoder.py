"""CosyVoice 1's conformer encoder, of text (causal) and of speech tokens (bidirectional)."""

from tasks.models.cosyvoice.espnet_encoder import EspnetEncoder
from tasks.models.cosyvoice.espnet_layers import ConformerLayer, InputProjection, LayerOptions, require_published

PUBLISHED = {
    "normalize_before": True,
    "input_layer": "linear",
    "pos_enc_layer_type": "rel_pos_espnet",
    "selfattention_layer_type": "rel_selfattn",
    "activation_type": "swish",
    "use_cnn_module": False,
    "macaron_style": False,
    "use_dynamic_chunk": False,
    "use_dynamic_left_chunk": False,
}


class ConformerEncoder(EspnetEncoder):
    """Constructor arguments as published."""

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
        **unused: object,
    ) -> None:
        require_published("ConformerEncoder", unused, PUBLISHED)
        options = LayerOptions(attention_heads, linear_units, dropout_rate, attention_dropout_rate, key_bias)
        super().__init__(
            InputProjection(input_size, output_size, dropout=dropout_rate, positional_dropout=positional_dropout_rate),
            [ConformerLayer(output_size, options) for _ in range(num_blocks)],
            input_size=input_size,
            width=output_size,
            heads=attention_heads,
            static_chunk_size=static_chunk_size,
        )
