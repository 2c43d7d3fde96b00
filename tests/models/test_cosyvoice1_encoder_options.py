"""Encoder options of the original classes that no released model uses: macaron, convolution, activations."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.errors import UserError
from tasks.models.cosyvoice.encoder.conformer import ConformerEncoder
from tasks.models.cosyvoice.encoder.transformer import TransformerEncoder
from tests.support import exporting
from tests.support.replay import worst

SIZES = {"input_size": 12, "output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2}
PLAIN = {"input_layer": "linear", "pos_enc_layer_type": "rel_pos_espnet", "selfattention_layer_type": "rel_selfattn"}
CAUSAL = {"static_chunk_size": 1, "causal": True, "cnn_module_kernel": 4}
CONVOLUTIONS = [{"cnn_module_norm": "layer_norm", "cnn_module_kernel": 5}, {"cnn_module_norm": "batch_norm"}, CAUSAL]
EPS = 1e-12


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def conformer(**options) -> ConformerEncoder:
    """An encoder whose weights and batch norm statistics all differ from their initial values."""
    torch.manual_seed(0)
    encoder = ConformerEncoder(**SIZES, **PLAIN, **options).eval()
    for tensor in encoder.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor), alpha=0.1)
    return encoder


def sequence(length: int = 9) -> tuple[Tensor, Tensor]:
    xs = torch.randn(2, length, SIZES["input_size"], generator=torch.Generator().manual_seed(length))
    return xs, torch.tensor([length, length - 4], dtype=torch.int32)


def written_out(layer: nn.Module, x: Tensor, bias: Tensor, positions: Tensor, *, valid: Tensor, past: int) -> Tensor:
    """The formula of a layer with macaron and convolution, from its parameters by their original names."""
    weights = layer.state_dict()

    def norm(x: Tensor, name: str, eps: float = EPS) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"].flatten(1), weights[f"{name}.bias"])

    def feed_forward(x: Tensor, name: str) -> Tensor:
        return linear(F.silu(linear(x, f"{name}.w_1")), f"{name}.w_2")

    x = x + 0.5 * feed_forward(norm(x, "norm_ff_macaron"), "feed_forward_macaron")
    x = x + layer.self_attn(norm(x, "norm_mha"), bias, positions)
    rows = valid.transpose(1, 2)
    value, gate = linear(norm(x, "norm_conv") * rows, "conv_module.pointwise_conv1").chunk(2, dim=2)
    kernel = weights["conv_module.depthwise_conv.weight"]
    if past:
        value_0, gate_0 = weights["conv_module.pointwise_conv1.bias"].chunk(2)
        edge = (value_0 * gate_0.sigmoid()).expand(len(x), past, -1)  # the gated value of zero padding
        gated = torch.cat((edge, value * gate.sigmoid()), dim=1)
        windows = gated.unfold(1, past + 1, 1)
    else:
        half = kernel.size(2) // 2
        windows = F.pad(value * gate.sigmoid(), (0, 0, half, half)).unfold(1, kernel.size(2), 1)
    mixed = (windows * kernel[:, 0]).sum(dim=-1) + weights["conv_module.depthwise_conv.bias"]
    if "conv_module.norm.running_mean" in weights:
        mean, variance = (weights[f"conv_module.norm.running_{name}"] for name in ("mean", "var"))
        scaled = (mixed - mean) / (variance + 1e-5).sqrt()
        mixed = scaled * weights["conv_module.norm.weight"] + weights["conv_module.norm.bias"]
    else:
        mixed = norm(mixed, "conv_module.norm", eps=1e-5)
    x = x + linear(F.silu(mixed), "conv_module.pointwise_conv2") * rows
    x = x + 0.5 * feed_forward(norm(x, "norm_ff"), "feed_forward")
    return norm(x, "norm_final")


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_a_layer_with_macaron_and_convolution_follows_its_formula(options):
    layer = conformer(**options).encoders[0]
    x, positions = torch.randn(2, 7, 16), torch.randn(1, 13, 16)
    valid = torch.arange(7) < torch.tensor([[7], [4]])[:, None]
    bias = torch.zeros(2, 1, 1, 7).masked_fill(~valid[:, None], -6e4)
    past = options["cnn_module_kernel"] - 1 if options.get("causal") else 0
    assert (
        worst(layer(x, bias, positions, valid), written_out(layer, x, bias, positions, valid=valid, past=past)) <= 1e-5
    )


@pytest.mark.parametrize("options", [*CONVOLUTIONS, {"use_cnn_module": False}, {"macaron_style": False}])
def test_it_can_be_scripted_and_padding_has_no_influence(options):
    encoder, (xs, lengths) = conformer(**options), sequence()
    hidden, _ = torch.jit.freeze(torch.jit.script(encoder), preserved_attrs=["forward_chunk"])(xs, lengths)
    assert worst(hidden, encoder(xs, lengths)[0]) <= 1e-5
    xs[1, 5:] += 3
    assert worst(hidden[1, :5], encoder(xs, lengths)[0][1, :5]) <= 1e-5


def test_chunks_with_both_caches_add_up_to_the_whole_sequence():
    encoder, (xs, _) = conformer(**CAUSAL), sequence()
    whole, _ = encoder(xs[:1], torch.tensor([9]))
    caches, parts = (torch.zeros(0, 0, 0, 0), torch.zeros(0, 0, 0, 0)), []
    for start, end in ((0, 2), (2, 3), (3, 9)):
        mask = torch.ones(1, end - start, end, dtype=torch.bool).tril(diagonal=start)
        part, *caches = encoder.forward_chunk(xs[:1, start:end], start, -1, *caches, mask)
        parts.append(part)
        assert caches[1].shape == (2, 1, 16, 3)
    assert worst(torch.cat(parts, dim=1), whole) <= 1e-5


def test_it_can_be_exported(tmp_path):
    encoder, path = conformer(), tmp_path / "encoder.onnx"
    exporting.export_encoder(encoder, path, dynamo=False)
    assert max(exporting.worst_at(encoder, path, exporting.encoder_inputs(encoder, n)) for n in (5, 23)) <= 2e-5


def test_the_activation_is_that_of_the_yaml():
    options = SIZES | PLAIN | {"input_layer": "linear_legacy"}
    assert isinstance(TransformerEncoder(**options).encoders[0].feed_forward.activation, nn.ReLU)
    assert isinstance(
        TransformerEncoder(**options, activation_type="gelu").encoders[1].feed_forward.activation, nn.GELU
    )
    assert isinstance(conformer(activation_type="tanh").encoders[0].conv_module.activation, nn.Tanh)


def test_either_input_layer_goes_with_either_encoder():
    legacy = ConformerEncoder(**SIZES | PLAIN | {"input_layer": "linear_legacy"})
    assert isinstance(legacy.embed.out[-1], nn.ReLU)
    assert isinstance(TransformerEncoder(**SIZES, **PLAIN).embed.out[-1], nn.Dropout)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("activation_type", "snake"),
        ("cnn_module_kernel", 4),
        ("cnn_module_norm", "group_norm"),
        ("normalize_before", False),
        ("input_layer", "conv2d"),
    ],
)
def test_an_unsupported_option_is_named(option, value):
    with pytest.raises(UserError) as caught:
        ConformerEncoder(**SIZES | PLAIN | {option: value})
    assert (caught.value.where, caught.value.value) == (option, value)


@pytest.mark.parametrize("encoder", [ConformerEncoder, TransformerEncoder])
def test_an_omitted_position_encoding_is_refused(encoder):
    """The original default is another encoding, with weights of the same names and shapes."""
    given = {name: value for name, value in PLAIN.items() if name != "pos_enc_layer_type"}
    with pytest.raises(UserError) as caught:
        encoder(**SIZES, **given)
    assert caught.value.where == "pos_enc_layer_type"
