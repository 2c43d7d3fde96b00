"""The conformer encoder of CosyVoice 1, for text (causal) and for speech tokens (bidirectional)."""

from typing import Literal

from tasks.models.cosyvoice.encoder.conformer_layer import ConvolutionOptions, FullConformerLayer
from tasks.models.cosyvoice.encoder.espnet import EspnetEncoder
from tasks.models.cosyvoice.encoder.espnet_layers import (
    ESPNET_OPTIONS,
    ConformerLayer,
    InputProjection,
    LayerOptions,
    is_legacy,
    require_supported,
)


class ConformerEncoder(EspnetEncoder):
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
        pos_enc_layer_type: str = "rel_pos",
        static_chunk_size: int = 0,
        macaron_style: bool = True,
        activation_type: str = "swish",
        use_cnn_module: bool = True,
        cnn_module_kernel: int = 15,
        causal: bool = False,
        cnn_module_norm: Literal["batch_norm", "layer_norm"] = "batch_norm",
        key_bias: bool = True,
        **others: object,
    ) -> None:
        require_supported("ConformerEncoder", others | {"pos_enc_layer_type": pos_enc_layer_type}, ESPNET_OPTIONS)
        options = LayerOptions(
            attention_heads, linear_units, dropout_rate, attention_dropout_rate, key_bias, activation_type
        )
        convolution = ConvolutionOptions(cnn_module_kernel, cnn_module_norm, causal) if use_cnn_module else None
        super().__init__(
            InputProjection(
                input_size,
                output_size,
                dropout=dropout_rate,
                positional_dropout=positional_dropout_rate,
                relu=is_legacy(input_layer),
            ),
            [_layer(output_size, options, macaron_style, convolution) for _ in range(num_blocks)],
            input_size=input_size,
            width=output_size,
            heads=attention_heads,
            static_chunk_size=static_chunk_size,
        )


def _layer(width: int, options: LayerOptions, macaron: bool, convolution: ConvolutionOptions | None) -> ConformerLayer:
    if macaron or convolution is not None:
        return FullConformerLayer(width, options, macaron=macaron, convolution=convolution)
    return ConformerLayer(width, options)
