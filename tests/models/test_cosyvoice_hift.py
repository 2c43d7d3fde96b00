"""The HiFT vocoders compared with recorded outputs of the originals, in eager mode and exported to ONNX."""

from functools import cache
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tasks.models.cosyvoice.folder import load_component, load_part
from tasks.models.cosyvoice.vocoder.source import SourceNoise
from tasks.models.cosyvoice.vocoder.stft import ShortTimeFourier
from tasks.models.loading.weight_norm import SPELLINGS, match_weight_norm
from tests.support.errors import error_of
from tests.support.folders import component, config_of, weights_of
from tests.support.golden_cases import Case, golden_case, golden_tensor
from tests.support.replay import worst

CENTRED = pytest.mark.parametrize("family", ["cosyvoice1", "cosyvoice2"])
ENDING = pytest.mark.parametrize("ending", ["final", "notfinal"])
EVERY = pytest.mark.parametrize("family", ["cosyvoice1", "cosyvoice2", "cosyvoice3"])


def load_hift(family: str, weights: Path | None = None) -> nn.Module:
    return load_part("hift", config=config_of(family), weights=weights or weights_of(family, "hift"))


@cache
def hift(family: str) -> nn.Module:
    return load_hift(family)


pytestmark = [
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Constant folding", "ignore:.*dynamic axes will not be renamed"),
]


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.inference_mode():
        yield


def frame_pitch(case: Case, hop: int) -> Tensor:
    """The pitch per frame of a case that recorded it per sample."""
    return case.inputs["f0_up"][:, ::hop, 0]


def recorded_noise(family: str) -> SourceNoise:
    phase, samples, _unused = golden_case(family, "hift_source").draws
    return SourceNoise(phase.reshape(1, -1), samples.transpose(1, 2) if family == "cosyvoice1" else samples)


def recorded_causal_noise(frames: int) -> SourceNoise:
    table = golden_tensor("cosyvoice3", "hift_sine_noise_head")
    return SourceNoise(golden_tensor("cosyvoice3", "hift_rand_ini"), table[:, : frames * hift("cosyvoice3").hop])


@CENTRED
def test_pitch_matches_the_original(family):
    case = golden_case(family, "hift_f0")
    assert worst(hift(family).f0_predictor(**case.inputs), case.outputs["f0"]) < 1e-4


@CENTRED
def test_excitation_of_the_recorded_noise_matches_the_original(family):
    case, source = golden_case(family, "hift_source"), hift(family).m_source
    excitation, voiced = source(frame_pitch(case, source.hop), recorded_noise(family))
    assert worst(excitation.transpose(1, 2), case.outputs["sine_merge"]) < 1e-5
    assert torch.equal(voiced, case.outputs["uv"])


@CENTRED
def test_waveform_of_a_recorded_source_matches_the_original(family):
    case = golden_case(family, "hift_decode")
    assert worst(hift(family)(case.inputs["mel"], case.inputs["s"]), case.outputs["wav"]) < 1e-4


@CENTRED
def test_inference_from_a_mel_matches_the_original(family):
    case, mel = golden_case(family, "hift_inference"), golden_case(family, "hift_f0").inputs["mel"]
    wav, source = hift(family).inference(mel, noise=recorded_noise(family))
    assert worst(wav, case.outputs["wav"]) < 1e-3
    assert worst(source, case.outputs["source"]) < 1e-3


@CENTRED
def test_inference_continues_a_cached_source(family):
    case, mel = golden_case(family, "hift_inference_cache"), golden_case(family, "hift_f0").inputs["mel"]
    earlier = case.inputs["cache_source"]
    wav, source = hift(family).inference(mel, earlier, noise=recorded_noise(family))
    assert worst(wav, case.outputs["wav"]) < 1e-3
    assert torch.equal(source[:, :, : earlier.shape[2]], earlier)


@ENDING
def test_causal_pitch_matches_the_original_in_double_precision(ending):
    case, mel = golden_case("cosyvoice3", f"hift_f0_{ending}"), golden_case("cosyvoice3", "hift_f0_final").inputs["mel"]
    f0 = hift("cosyvoice3").f0_predictor.in_double(mel, case.flags["finalize"])
    assert worst(f0, case.outputs["f0"]) < 1e-6


def test_pitch_in_double_precision_leaves_the_parameters_single():
    predictor = load_hift("cosyvoice3").f0_predictor
    predictor.in_double(torch.randn(1, 80, 12))
    assert {parameter.dtype for parameter in predictor.parameters()} == {torch.float32}


@ENDING
def test_causal_excitation_of_the_recorded_noise_matches_the_original(ending):
    case, source = golden_case("cosyvoice3", f"hift_source_{ending}"), hift("cosyvoice3").m_source
    f0 = frame_pitch(case, source.hop)
    excitation, voiced = source(f0, recorded_causal_noise(f0.shape[1]))
    assert worst(excitation.transpose(1, 2), case.outputs["sine_merge"]) < 1e-5
    assert torch.equal(voiced, case.outputs["uv"])


@ENDING
def test_causal_waveform_of_a_recorded_source_matches_the_original(ending):
    case, mel = golden_case("cosyvoice3", f"hift_decode_{ending}"), golden_case("cosyvoice3", "hift_f0_final").inputs
    source = golden_case("cosyvoice3", f"hift_source_{ending}").outputs["sine_merge"].transpose(1, 2)
    model, finalize = hift("cosyvoice3"), case.flags["finalize"]
    wav = model(mel["mel"][:, :, : source.shape[2] // model.hop], source, finalize)
    assert worst(wav, case.outputs["wav"]) < 1e-3


@ENDING
def test_causal_inference_from_a_mel_matches_the_original(ending):
    case, mel = golden_case("cosyvoice3", f"hift_inference_{ending}"), golden_case("cosyvoice3", "hift_f0_final").inputs
    finalize = case.flags["finalize"]
    frames = mel["mel"].shape[2] - (0 if finalize else 3)
    wav, source = hift("cosyvoice3").inference(mel["mel"], noise=recorded_causal_noise(frames), finalize=finalize)
    assert worst(wav, case.outputs["wav"]) < 1e-3
    assert worst(source, case.outputs["source"]) < 1e-5


def test_causal_waveform_does_not_change_when_more_mel_arrives():
    model, mel = hift("cosyvoice3"), torch.randn(1, 80, 30)
    early, _ = model.inference(mel[:, :, :18], finalize=False)
    late, _ = model.inference(mel)
    assert early.shape[1] == (18 - 8) * model.hop
    assert worst(early, late[:, : early.shape[1]]) < 1e-4


def test_causal_noise_goes_on_for_more_frames():
    model = hift("cosyvoice3")
    few, many = model.fixed_noise(torch.zeros(1, 3)), model.fixed_noise(torch.zeros(1, 11))
    assert torch.equal(few.samples, many.samples[:, : few.samples.shape[1]])


def test_options_that_a_yaml_leaves_out_match_the_original(tmp_path):
    config, lines = tmp_path / "cosyvoice.yaml", config_of("cosyvoice1").read_text().splitlines()
    start, end = (next(i for i, line in enumerate(lines) if name in line) for name in ("nb_harmonics", "f0_predictor:"))
    config.write_text("\n".join(lines[:start] + lines[end:]))
    model = load_part("hift", config=config, weights=weights_of("cosyvoice1", "hift"))
    case = golden_case("cosyvoice1", "hift_decode")
    assert worst(model(case.inputs["mel"], case.inputs["s"]), case.outputs["wav"]) < 1e-4
    assert vars(model.m_source)["noise_std"] == hift("cosyvoice1").m_source.noise_std


@EVERY
def test_a_vocoder_saved_by_the_gan_trainer_loads(family, tmp_path):
    original = torch.load(weights_of(family, "hift"), weights_only=True)
    torch.save({f"generator.{key}": value for key, value in original.items()}, tmp_path / "hift.pt")
    loaded = load_hift(family, tmp_path / "hift.pt")
    assert torch.equal(loaded.conv_pre.bias, original["conv_pre.bias"])


@EVERY
def test_a_vocoder_saved_before_pytorch_had_parametrizations_loads(family, tmp_path):
    original = torch.load(weights_of(family, "hift"), weights_only=True)
    parts = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    old = {name: value for name, value in original.items() if "parametrizations" not in name}
    for new, part in parts.items():
        old |= {name.replace(new, part): value for name, value in original.items() if name.endswith(new)}
    torch.save(old, tmp_path / "hift.pt")
    mel, source = vocoder_inputs(hift(family), frames=12)
    assert torch.equal(load_hift(family, tmp_path / "hift.pt")(mel, source), hift(family)(mel, source))


@EVERY
@pytest.mark.parametrize("keep", [0, 3], ids=["every layer", "all layers but some"])
def test_a_vocoder_saved_without_weight_norm_keeps_its_weights_bit_for_bit(family, tmp_path, keep):
    original = hift(family)
    with_norm = {name: tensor for name, tensor in original.state_dict().items() if "parametrizations" in name}
    plain = {name: tensor for name, tensor in original.state_dict().items() if name not in with_norm}
    kept = list(with_norm)[: 2 * keep]
    layers = {name.partition(".parametrizations")[0] for name in with_norm if name not in kept}
    plain |= {f"{name}.weight": original.get_submodule(name).weight.detach() for name in layers}
    torch.save({f"model.{n}": t for n, t in {**plain, **{n: with_norm[n] for n in kept}}.items()}, tmp_path / "w.pt")
    loaded = load_hift(family, tmp_path / "w.pt")
    assert all(torch.equal(loaded.get_submodule(name).weight, plain[f"{name}.weight"]) for name in layers)
    mel, source = vocoder_inputs(original, frames=12)
    assert torch.equal(loaded(mel, source), original(mel, source))


@pytest.mark.parametrize("spelling", [("weight_g", "weight_v"), SPELLINGS[1]])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_is_worked_out_for_a_layer_that_has_none(spelling, dim):
    layer = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 5), dim=dim)
    parts = layer.parametrizations.weight
    given = {**dict(zip(spelling, (parts.original0, parts.original1), strict=True)), "bias": layer.bias}
    plain = nn.Sequential(nn.Conv1d(3, 4, 5))
    found = match_weight_norm(plain, {f"0.{name}": tensor for name, tensor in given.items()})
    assert found.keys() == plain.state_dict().keys()
    assert torch.allclose(found["0.weight"], layer.weight, rtol=1e-6, atol=1e-7)


@EVERY
def test_removing_weight_norm_keeps_the_waveform(family):
    model = load_hift(family)
    mel, source = vocoder_inputs(model, frames=12)
    before = model(mel, source)
    model.remove_weight_norm()
    assert not any("parametrizations" in name for name in model.state_dict())
    assert worst(model(mel, source), before) < 1e-5


@EVERY
def test_a_component_to_export_has_no_weight_norm(family):
    loaded = load_component(component("hift"), config=config_of(family), weights=weights_of(family, "hift"))
    inputs = vocoder_inputs(loaded, frames=12)
    assert not any("parametrizations" in name for name in loaded.state_dict())
    assert worst(loaded(*inputs), hift(family)(*inputs)) < 1e-5


def test_transform_equals_torch_stft():
    wave = torch.randn(2, 1, 4800)
    spectrum = torch.stft(wave[:, 0], 16, 4, window=torch.hann_window(16), return_complex=True)
    actual = ShortTimeFourier(16, 4).transform(wave)
    assert worst(actual, torch.cat([spectrum.real, spectrum.imag], dim=1)) < 1e-5


def test_inverse_equals_torch_istft():
    spectrum = torch.randn(2, 18, 1201)
    wave = torch.istft(torch.complex(spectrum[:, :9], spectrum[:, 9:]), 16, 4, window=torch.hann_window(16))
    assert worst(ShortTimeFourier(16, 4).inverse(spectrum), wave) < 1e-5


@pytest.mark.parametrize("exporter", ["torchscript"])  # dynamo: in the workflow tests
@pytest.mark.parametrize(
    ("family", "finalize"), [("cosyvoice1", True), ("cosyvoice2", True), ("cosyvoice3", True), ("cosyvoice3", False)]
)
def test_exported_vocoder_equals_eager_at_every_length(family, finalize, exporter, tmp_path):
    model = load_hift(family)
    options = (finalize,) if family == "cosyvoice3" else ()
    export(model, (*vocoder_inputs(model, frames=20), *options), tmp_path / "hift.onnx", dynamo=exporter == "dynamo")
    session = onnxruntime.InferenceSession(tmp_path / "hift.onnx", providers=["CPUExecutionProvider"])
    for frames in (12, 20, 61):
        mel, source = vocoder_inputs(model, frames=frames)
        (wav,) = session.run(None, {"mel": mel.numpy(), "source": source.numpy()})
        assert worst(torch.from_numpy(wav), model(mel, source, *options)) < 2e-4


@EVERY
def test_a_source_split_into_frames_gives_the_same_waveform(family):
    model = hift(family)
    mel, source = vocoder_inputs(model, frames=14)
    assert torch.equal(model(mel, source.reshape(1, 14, model.hop)), model(mel, source))


def vocoder_inputs(model: nn.Module, *, frames: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(frames)
    mel = torch.randn(1, 80, frames, generator=generator)
    return mel, 0.1 * torch.randn(1, 1, frames * model.hop, generator=generator)


def export(model: nn.Module, arguments: tuple, path: Path, *, dynamo: bool) -> None:
    frames = torch.export.Dim("frames", min=12, max=4000)
    dynamic = {"mel": {2: frames}, "source": {2: frames * model.hop}, "finalize": None}
    torch.onnx.export(
        model,
        arguments,
        path,
        opset_version=18,
        input_names=["mel", "source"],
        output_names=["wav"],
        dynamo=dynamo,
        verbose=False,
        dynamic_shapes=dict(list(dynamic.items())[: len(arguments)]) if dynamo else None,
        dynamic_axes=None if dynamo else {"mel": {2: "frames"}, "source": {2: "samples"}, "wav": {1: "samples"}},
    )


@EVERY
def test_a_direction_of_length_zero_is_named(family, tmp_path):
    weights = torch.load(weights_of(family, "hift"), weights_only=True)
    name = next(name for name in weights if name.startswith("conv_pre.") and name.endswith(("weight_v", "original1")))
    weights[name] = torch.zeros_like(weights[name])
    torch.save(weights, tmp_path / "hift.pt")
    error = error_of(load_component, component("hift"), config=config_of(family), weights=tmp_path / "hift.pt")
    assert str(error.value).startswith("conv_pre.weight, computed from its weight norm: ")
