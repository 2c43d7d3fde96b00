"""The transformer of the CosyVoice 1 language model, which can decode chunk by chunk with a cache."""

from tasks.models.cosyvoice.encoder.espnet import EspnetEncoder
from tasks.models.cosyvoice.encoder.espnet_layers import (
    ESPNET_OPTIONS,
    InputProjection,
    LayerOptions,
    TransformerLayer,
    is_legacy,
    require_supported,
)


class TransformerEncoder(EspnetEncoder):
    """Constructor arguments and defaults are those of the original implementation.

    Where the original default is not supported, leaving the option out is an error.
    """

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
        input_layer: str = "conv2d",
        pos_enc_layer_type: str = "abs_pos",
        static_chunk_size: int = 0,
        key_bias: bool = True,
        selfattention_layer_type: str = "selfattn",
        activation_type: str = "relu",
        **others: object,
    ) -> None:
        others |= {
            "pos_enc_layer_type": pos_enc_layer_type,
            "selfattention_layer_type": selfattention_layer_type,
        }
        require_supported("TransformerEncoder", others, ESPNET_OPTIONS)
        options = LayerOptions(
            attention_heads, linear_units, dropout_rate, attention_dropout_rate, key_bias, activation_type
        )
        super().__init__(
            InputProjection(
                input_size,
                output_size,
                dropout=dropout_rate,
                positional_dropout=positional_dropout_rate,
                relu=is_legacy(input_layer),
            ),
            [TransformerLayer(output_size, options) for _ in range(num_blocks)],
            input_size=input_size,
            width=output_size,
            heads=attention_heads,
            static_chunk_size=static_chunk_size,
        )
