"""The pieces of ESPnet-style encoders: input projection, feed-forward, and the two pre-norm layers.

Shared by CosyVoice 1's language model and encoders and by CosyVoice 2's encoder.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from tasks.errors import UserError
from tasks.models.cosyvoice.encoder.rel_attention import RelPositionAttention

# Published options that only say how a model is trained, or shape the convolutions that no shipped model has.
WITHOUT_EFFECT = (
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


@dataclass(frozen=True)
class LayerOptions:
    """Sizes, dropout rates and the activation common to the layers of one encoder."""

    heads: int
    hidden: int
    dropout: float
    attention_dropout: float
    key_bias: bool = True
    activation: str = "swish"


def activation_of(name: str) -> nn.Module:
    """The activation that a YAML names.

    Raises:
        UserError: there is none of that name.
    """
    if name not in ACTIVATIONS:
        remedy = f"Use one of {', '.join(ACTIVATIONS)}"
        raise UserError("no such activation", where="activation_type", value=name, remedy=remedy)
    return ACTIVATIONS[name]()


class InputProjection(nn.Module):
    """Linear, LayerNorm, dropout (and ReLU for "linear_legacy"), then the scaling by sqrt(D) of relative encodings."""

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
    """x + attention(norm(x)), then x + feed_forward(norm(x)); the two norms are named by the subclass."""

    def __init__(self, width: int, options: LayerOptions) -> None:
        super().__init__()
        self.self_attn = RelPositionAttention(
            width, options.heads, dropout=options.attention_dropout, key_bias=options.key_bias
        )
        activation = activation_of(options.activation)
        self.feed_forward = FeedForward(width, options.hidden, dropout=options.dropout, activation=activation)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, x: Tensor, bias: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """Shapes as in RelPositionAttention.forward; ``valid`` bool (B, 1, T) is for layers that also convolve."""
        x = x + self.dropout(self.self_attn(self.attention_norm(x), bias, positions))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))

    def forward_cached(
        self, x: Tensor, bias: Tensor, positions: Tensor, cache: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Shapes as in RelPositionAttention.forward_cached; ``before`` is for layers that also convolve."""
        attended, cache = self.self_attn.forward_cached(self.attention_norm(x), bias, positions, cache)
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x))), cache, before

    def attention_norm(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def feed_forward_norm(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class ConformerLayer(PreNormLayer):
    """A layer under a conformer's parameter names (no convolution, no macaron)."""

    def __init__(self, width: int, options: LayerOptions) -> None:
        super().__init__(width, options)
        self.norm_mha = nn.LayerNorm(width, eps=1e-12)
        self.norm_ff = nn.LayerNorm(width, eps=1e-12)

    def attention_norm(self, x: Tensor) -> Tensor:
        return self.norm_mha(x)

    def feed_forward_norm(self, x: Tensor) -> Tensor:
        return self.norm_ff(x)


class TransformerLayer(PreNormLayer):
    """A layer under a transformer's parameter names."""

    def __init__(self, width: int, options: LayerOptions) -> None:
        super().__init__(width, options)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)

    def attention_norm(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def feed_forward_norm(self, x: Tensor) -> Tensor:
        return self.norm2(x)


def is_legacy(input_layer: str) -> bool:
    """Whether an input layer of a YAML ends in a ReLU.

    Raises:
        UserError: it is not a linear one.
    """
    if input_layer not in INPUT_LAYERS:
        remedy = f"Use {' or '.join(INPUT_LAYERS)}"
        raise UserError("no such input layer here", where="input_layer", value=input_layer, remedy=remedy)
    return input_layer == "linear_legacy"


def require_published(encoder: str, options: Mapping[str, object], published: Mapping[str, object]) -> None:
    """Refuse options of a YAML that no shipped model uses and these layers do not have.

    Raises:
        UserError: an option is not known, or differs from the only value that is implemented.
    """
    for name, value in options.items():
        if name in WITHOUT_EFFECT:
            continue
        if name not in published or published[name] != value:
            only = f"only {name}={published[name]!r}" if name in published else f"no option {name}"
            raise UserError(
                f"{encoder} has {only}",
                where=name,
                value=value,
                remedy="Use an encoder configured as in the published CosyVoice models",
            )
