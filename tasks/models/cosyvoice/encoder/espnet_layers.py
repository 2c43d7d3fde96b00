"""Building blocks of ESPnet-style encoders: input projection, feed-forward, and the two pre-norm layers.

Shared by the language model and encoders of CosyVoice 1 and by the encoder of CosyVoice 2.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from tasks.errors import UserError
from tasks.models.cosyvoice.encoder.rel_attention import RelPositionAttention

# Original options that affect training alone, or convolutions that no released model has.
IGNORED_OPTIONS = (
    "gradient_checkpointing",
    "cnn_module_kernel",
    "cnn_module_norm",
    "causal",
    "positionwise_conv_kernel_size",
)
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "hardtanh": nn.Hardtanh,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "selu": nn.SELU,
    "swish": nn.SiLU,
    "gelu": nn.GELU,
}
INPUT_LAYERS = ("linear", "linear_legacy")
# The only supported values of options of the CosyVoice 1 encoders.
ESPNET_OPTIONS = {
    "normalize_before": True,
    "pos_enc_layer_type": "rel_pos_espnet",
    "selfattention_layer_type": "rel_selfattn",
    "use_dynamic_chunk": False,
    "use_dynamic_left_chunk": False,
    "global_cmvn": None,
}


@dataclass(frozen=True)
class LayerOptions:
    """Sizes, dropout rates and activation, common to the layers of one encoder."""

    heads: int
    hidden: int
    dropout: float
    attention_dropout: float
    key_bias: bool = True
    activation: str = "swish"


def activation_of(name: str) -> nn.Module:
    """A new activation of the name used in a YAML.

    Raises:
        UserError: the name is unknown.
    """
    if name not in ACTIVATIONS:
        remedy = f"Use one of {', '.join(ACTIVATIONS)}"
        raise UserError("unknown activation", where="activation_type", value=name, remedy=remedy)
    return ACTIVATIONS[name]()


class InputProjection(nn.Module):
    """Linear, LayerNorm, dropout (and ReLU for "linear_legacy"), then scaling by sqrt(D) as for relative encodings."""

    def __init__(
        self, input_size: int, width: int, *, dropout: float, positional_dropout: float, relu: bool = False
    ) -> None:
        super().__init__()
        layers = [nn.Linear(input_size, width), nn.LayerNorm(width, eps=1e-5), nn.Dropout(dropout)]
        self.out = nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)
        self.dropout = nn.Dropout(positional_dropout)
        self.scale = width**0.5

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, input) -> (B, T, D)."""
        return self.dropout(self.out(x) * self.scale)


class FeedForward(nn.Module):
    """w_2(dropout(activation(w_1(x))))."""

    def __init__(self, width: int, hidden: int, *, dropout: float, activation: nn.Module) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, hidden)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)
        self.w_2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(self.dropout(self.activation(self.w_1(x))))


class PreNormLayer(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); the subclass names the two norms."""

    def __init__(self, width: int, options: LayerOptions) -> None:
        super().__init__()
        self.self_attn = RelPositionAttention(
            width, options.heads, dropout=options.attention_dropout, key_bias=options.key_bias
        )
        activation = activation_of(options.activation)
        self.feed_forward = FeedForward(width, options.hidden, dropout=options.dropout, activation=activation)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, x: Tensor, bias: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """Shapes as in RelPositionAttention.forward; ``valid``, bool (B, 1, T), is for layers with a convolution."""
        x = x + self.dropout(self.self_attn(self.attention_norm(x), bias, positions))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))

    def forward_cached(
        self, x: Tensor, bias: Tensor, positions: Tensor, cache: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Shapes as in RelPositionAttention.forward_cached; ``before`` is for layers with a convolution."""
        attended, cache = self.self_attn.forward_cached(self.attention_norm(x), bias, positions, cache)
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x))), cache, before

    def attention_norm(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def feed_forward_norm(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class ConformerLayer(PreNormLayer):
    """A layer with the parameter names of a conformer (no convolution, no macaron)."""

    def __init__(self, width: int, options: LayerOptions) -> None:
        super().__init__(width, options)
        self.norm_mha = nn.LayerNorm(width, eps=1e-12)
        self.norm_ff = nn.LayerNorm(width, eps=1e-12)

    def attention_norm(self, x: Tensor) -> Tensor:
        return self.norm_mha(x)

    def feed_forward_norm(self, x: Tensor) -> Tensor:
        return self.norm_ff(x)


class TransformerLayer(PreNormLayer):
    """A layer with the parameter names of a transformer."""

    def __init__(self, width: int, options: LayerOptions) -> None:
        super().__init__(width, options)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)

    def attention_norm(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def feed_forward_norm(self, x: Tensor) -> Tensor:
        return self.norm2(x)


def is_legacy(input_layer: str) -> bool:
    """Whether the named input layer ends in a ReLU.

    Raises:
        UserError: the input layer is not linear.
    """
    if input_layer not in INPUT_LAYERS:
        remedy = f"Use {' or '.join(INPUT_LAYERS)}"
        raise UserError("unsupported input layer", where="input_layer", value=input_layer, remedy=remedy)
    return input_layer == "linear_legacy"


def require_supported(encoder: str, options: Mapping[str, object], supported: Mapping[str, object]) -> None:
    """Check options that have only one supported value.

    Raises:
        UserError: an option is unknown, or differs from the supported value.
    """
    for name, value in options.items():
        if name in IGNORED_OPTIONS:
            continue
        if name not in supported or supported[name] != value:
            problem = f"supports only {name}={supported[name]!r}" if name in supported else f"has no option {name}"
            raise UserError(
                f"{encoder} {problem}",
                where=name,
                value=value,
                remedy="Use the configuration of the original CosyVoice models",
            )
