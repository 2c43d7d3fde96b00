"""A model folder gives the component asked for and nothing else; whatever is wrong with it ends in one clear error."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tasks.errors import UserError
from tasks.models.cosyvoice.folder import build_part, load_component, load_part
from tasks.settings.component import InputSpec
from tests.support.errors import error_of
from tests.support.folders import changed_config, changed_weights, component, config_of, copied_weights, weights_of
from tests.support.golden_cases import GOLDEN

FAMILY = "cosyvoice2"
ESTIMATOR = component("flow.decoder.estimator")
FINAL = "decoder.estimator.final_proj.weight"


def load(config=None, weights=None, wanted=ESTIMATOR):
    return load_component(wanted, config=config or config_of(FAMILY), weights=weights or weights_of(FAMILY))


def refusal(config=None, weights=None, wanted=ESTIMATOR):
    with pytest.raises(UserError) as error:
        load(config, weights, wanted)
    return str(error.value)


def test_a_component_is_in_eval_mode_fp32_and_real():
    estimator = load()
    assert not estimator.training
    assert {(str(value.device), value.dtype) for value in estimator.state_dict().values()} == {("cpu", torch.float32)}
    assert all(parameter.requires_grad for parameter in estimator.parameters())


def test_half_precision_weights_are_loaded_as_fp32(tmp_path):
    weights = changed_weights(FAMILY, tmp_path, lambda s: s.update({key: value.half() for key, value in s.items()}))
    assert load(weights=weights).final_proj.weight.dtype == torch.float32


def test_epoch_and_step_are_not_weights(tmp_path):
    weights = changed_weights(FAMILY, tmp_path, lambda state: state.update(epoch=3, step=700))
    load_part("flow", config=config_of(FAMILY), weights=weights)


def test_the_parts_of_a_model_may_be_in_one_file(tmp_path):
    parts = {part: torch.load(weights_of(FAMILY, part), weights_only=True) for part in ("llm", "flow", "hift")}
    torch.save(parts, tmp_path / "all.pt")
    for part in ("flow", "hift"):
        load_part(part, config=config_of(FAMILY), weights=tmp_path / "all.pt")
    load(weights=tmp_path / "all.pt")


def test_the_weights_file_may_be_replaced_after_loading(tmp_path):
    weights = copied_weights(FAMILY, tmp_path)
    estimator = load(weights=weights)
    before = estimator.final_proj.weight.clone()
    weights.write_bytes(b"\0" * weights.stat().st_size)
    assert torch.equal(estimator.final_proj.weight, before)


def test_only_the_components_tensors_are_looked_at(tmp_path):
    def break_encoder(state):
        state["encoder.after_norm.weight"].fill_(float("nan"))
        del state["encoder_proj.bias"]

    load(weights=changed_weights(FAMILY, tmp_path, break_encoder))


def test_loading_an_estimator_imports_neither_the_encoder_nor_the_flow():
    config, weights = str(config_of(FAMILY)), str(weights_of(FAMILY))
    script = (
        "import sys; from pathlib import Path; from tasks.models.cosyvoice.folder import load_component;"
        "from tests.support.folders import component;"
        f"load_component(component('flow.decoder.estimator'), config=Path({config!r}), weights=Path({weights!r}));"
        "print(*(name for name in sys.modules if name.startswith('tasks.models.cosyvoice.')))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=GOLDEN.parents[1]
    )
    imported = {name.rpartition(".")[2] for name in run.stdout.split()}
    assert "unet" in imported
    assert not imported & {"upsample_encoder", "rel_attention", "flow2", "flow_matching", "hift", "llm1"}


def test_a_part_with_random_weights_can_be_built_for_training():
    flow = build_part("flow", config=config_of(FAMILY))
    assert flow.training
    assert set(flow.state_dict()) == set(torch.load(weights_of(FAMILY), weights_only=True))


def test_missing_and_unexpected_names_are_listed_ten_at_most(tmp_path):
    def rename(state):
        for key in [key for key in state if key.startswith("decoder.estimator.mid_blocks.0.0")]:
            state[key.replace("mid_blocks", "middle")] = state.pop(key)

    message = refusal(weights=changed_weights(FAMILY, tmp_path, rename))
    assert "12 missing: decoder.estimator.mid_blocks.0.0.block1.block.0.bias" in message
    assert "12 unexpected: decoder.estimator.middle.0.0.block1.block.0.bias" in message
    assert message.count("decoder.estimator.middle") == 10
    assert str(tmp_path) in message


def test_another_shape_names_the_tensor_both_shapes_and_the_file(tmp_path):
    weights = changed_weights(FAMILY, tmp_path, lambda state: state.update({FINAL: state[FINAL][:, :8]}))
    message = refusal(weights=weights)
    assert f"{FINAL} is (80, 8, 1) in the file, (80, 32, 1) in the model" in message
    assert str(weights) in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path, value):
    weights = changed_weights(FAMILY, tmp_path, lambda state: state[FINAL][3, 2].fill_(value))
    message = refusal(weights=weights)
    assert f"{FINAL}: 1 of 2560 values" in message
    assert str(weights) in message


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_every_kind_of_floating_point_weights_is_loaded_as_fp32(tmp_path, dtype):
    weights = changed_weights(FAMILY, tmp_path, lambda state: state.update({FINAL: state[FINAL].to(dtype)}))
    stored = torch.load(weights, weights_only=True)[FINAL]
    assert torch.equal(load(weights=weights).final_proj.weight, stored.float())


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.to(torch.int8),
        lambda weight: weight.to(torch.complex64),
        lambda weight: weight.to_sparse(),
        lambda weight: weight.to("meta"),
    ],
    ids=["integers", "complex", "sparse", "without data"],
)
def test_weights_that_are_no_plain_floating_point_numbers_are_named(tmp_path, change):
    weights = changed_weights(FAMILY, tmp_path, lambda state: state.update({FINAL: change(state[FINAL])}))
    message = refusal(weights=weights)
    assert FINAL in message
    assert str(weights) in message


def test_another_kind_of_file_is_not_accused_of_running_code(tmp_path):
    (tmp_path / "flow.pt").write_bytes(b"hello")
    assert "is not a whole PyTorch checkpoint" in refusal(weights=tmp_path / "flow.pt")


def test_a_missing_weights_file_is_reported(tmp_path):
    assert "cannot be read" in refusal(weights=tmp_path / "flow.pt")


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.999])
def test_a_truncated_weights_file_is_reported(tmp_path, keep):
    weights = copied_weights(FAMILY, tmp_path)
    content = weights.read_bytes()
    weights.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    assert "is not a whole PyTorch checkpoint" in refusal(weights=weights)


def test_a_checkpoint_with_python_objects_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(1), "path": Path("x")}, tmp_path / "flow.pt")
    assert "contains Python objects" in refusal(weights=tmp_path / "flow.pt")


def test_the_weights_of_another_part_are_refused():
    message = refusal(weights=weights_of(FAMILY, "hift"))
    assert "has no tensor decoder.estimator.*" in message


def test_weights_smaller_than_the_yaml_says_are_refused(tmp_path):
    message = refusal(config=changed_config(FAMILY, tmp_path, "channels: [32]", "channels: [64]"))
    assert "another shape than the model" in message


def test_another_generations_option_names_the_right_setting():
    """CosyVoice 1's text encoder has options that CosyVoice 2's encoders do not have."""
    wanted = replace(component("flow.encoder"), options={"num_decoding_left_chunks": -1})
    message = refusal(wanted=wanted)
    assert "num_decoding_left_chunks" in message
    assert "Set model=cosyvoice2" in message


def test_an_input_that_the_module_does_not_take_is_refused_with_its_line():
    wanted = replace(ESTIMATOR, inputs={"x": InputSpec((2, 80, 4)), "speaker": InputSpec((2, 80))})
    message = refusal(wanted=wanted)
    assert f"{config_of(FAMILY)}:65" in message
    assert "speaker" in message


def test_another_generations_component_names_the_right_setting():
    assert "Set model=cosyvoice2" in refusal(wanted=component("flow.pre_lookahead_layer"))


def test_a_folder_with_only_another_generations_yaml_names_the_right_setting():
    assert "Set model=cosyvoice2" in refusal(config=GOLDEN / FAMILY / "cosyvoice.yaml")


@pytest.mark.parametrize("name", ["os.system", "cosyvoice.flow.decoder.CausalConditionalDecodr", "subprocess.Popen"])
def test_an_unknown_class_is_refused_with_its_line_and_what_is_known(tmp_path, name):
    config = changed_config(FAMILY, tmp_path, "cosyvoice.flow.decoder.CausalConditionalDecoder", name)
    message = refusal(config=config)
    assert name in message
    assert f"{config}:65" in message
    assert "Known: cosyvoice." in message


def test_an_unknown_class_elsewhere_does_not_matter(tmp_path):
    load(config=changed_config(FAMILY, tmp_path, "cosyvoice.hifigan.generator.HiFTGenerator", "os.system"))


def test_an_unknown_option_is_refused_with_those_there_are(tmp_path):
    message = refusal(config=changed_config(FAMILY, tmp_path, "num_mid_blocks: 1", "num_middle_blocks: 1"))
    assert "num_middle_blocks" in message
    assert "It has in_channels" in message


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("channels: [32]", "channels: 32"),
        ("channels: [32]", "channels: []"),
        ("num_heads: 4", "num_heads: four"),
        ("in_channels: 320", "in_channels: null"),
        ("in_channels: 320", "in_channels: -320"),
    ],
)
def test_values_that_nothing_can_be_built_with_are_refused_with_their_line(tmp_path, old, new):
    message = refusal(config=changed_config(FAMILY, tmp_path, old, new))
    assert f"{tmp_path / 'cosyvoice2.yaml'}:65: cosyvoice.flow.decoder.CausalConditionalDecoder cannot" in message
    assert new.replace(": ", "=").replace("null", "None") in message


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("act_fn: 'gelu'", "act_fn: 'snake'", "act_fn='gelu'"),
        ("macaron_style: False", "macaron_style: True", "macaron"),
    ],
)
def test_an_option_that_no_original_model_uses_is_refused(tmp_path, old, new, shown):
    config = changed_config(FAMILY, tmp_path, old, new)
    assert shown in str(error_of(load_part, "flow", config=config, weights=weights_of(FAMILY)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("num_blocks: 2", "num_blocks: two"),
        ("num_blocks: 2", "num_blocks:"),
        ("attention_heads: 4", "attention_heads: 0"),
        ("        input_size: 48", "        input_size: 24"),
        ("num_blocks: 2", "num_blocks: true"),
        ("num_blocks: 2", "num_blocks: 2.0"),
        ("num_blocks: 2", "num_blocks: 2000000000"),
        ("num_blocks: 2", "num_blocks: 99999999999999999999"),
        ("num_blocks: 2", "num_blocks: !ref <sample_rate> * <sample_rate> * <sample_rate>"),
        ("output_size: 48", "output_size: !ref 0 - <sample_rate>"),
        ("dropout_rate: 0.0", "dropout_rate: .nan"),
        ("dropout_rate: 0.0", "dropout_rate: .inf"),
    ],
)
def test_an_option_that_nothing_can_be_built_with_is_reported_with_its_line(tmp_path, old, new):
    encoder = component("flow.encoder")
    config = changed_config(FAMILY, tmp_path, old, new)
    message = refusal(config=config, wanted=encoder)
    assert f"{config}:37: " in message
    assert "UpsampleConformerEncoder cannot be built with these options" in message


def test_an_option_that_a_layer_does_not_have_is_reported_with_the_line_of_what_is_built(tmp_path):
    config = changed_config(FAMILY, tmp_path, "num_blocks: 2", "my_option: 1\n        num_blocks: 2")
    message = refusal(config=config, wanted=component("flow.encoder"))
    assert message.startswith(f"{config}:37, my_option: UpsampleConformerEncoder has no option my_option")


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("n_fft: 16", "n_fft: 1000000", "n_fft 1000000 must be even"),
        ("hop_len: 4", "hop_len: 1000000000", "hop_len 1000000000 from 1 to n_fft"),
        ("upsample_rates: [8, 5, 3]", "upsample_rates: [8, 5, 2000000000]", "from 1 to its kernel size"),
        ("upsample_rates: [8, 5, 3]", f"upsample_rates: [{'8, ' * 100}]", "upsample_rates must be a list of 1 to 64"),
        ("nb_harmonics: 8", "nb_harmonics: 2000000000", "another shape than the model"),
        ("base_channels: 32", "base_channels: 2000000000", "base_channels=2000000000"),
        ("nsf_alpha: 0.1", "nsf_alpha: .nan", "nsf_alpha must be a finite number"),
        ("nsf_alpha: 0.1", "nsf_alpha: '0.1'", "nsf_alpha must be a number"),
    ],
)
def test_sizes_that_would_fill_the_memory_are_refused_before_anything_is_built(tmp_path, old, new, shown):
    config = changed_config(FAMILY, tmp_path, old, new)
    assert shown in refusal(config=config, weights=weights_of(FAMILY, "hift"), wanted=component("hift"))


def test_a_part_that_is_larger_than_the_memory_is_refused_before_it_is_built(tmp_path):
    config = changed_config(FAMILY, tmp_path, "linear_units: 80", "linear_units: 2147483647")  # 5 TB
    assert "is larger than the memory of this machine" in str(error_of(build_part, "flow", config=config))


@pytest.mark.parametrize("rate", [0, -1, 1, 1000000])
@pytest.mark.parametrize(
    ("family", "option"),
    [("cosyvoice1", "input_frame_rate: 50"), ("cosyvoice3", "token_mel_ratio: !ref <token_mel_ratio>")],
)
def test_frames_for_a_token_are_bounded_although_no_weight_tells_them(tmp_path, family, option, rate):
    name = option.partition(":")[0]
    new = {"input_frame_rate": rate, "token_mel_ratio": rate - 1}[name]
    config = changed_config(family, tmp_path, option, f"{name}: {new}")
    assert f"{name} must be from" in str(error_of(load_part, "flow", config=config, weights=weights_of(family)))


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("out_channels: 80", "out_channels: 100", "in_channels must be 4 x out_channels"),
        ("output_size: 80\n", "output_size: 100\n", "the estimator has 80 mel bands, output_size is 100"),
    ],
)
def test_parts_of_different_mel_bands_are_refused(tmp_path, old, new, shown):
    config = changed_config(FAMILY, tmp_path, old, new)
    assert shown in str(error_of(load_part, "flow", config=config, weights=weights_of(FAMILY)))


def test_a_tag_that_the_component_does_not_reach_does_not_matter(tmp_path):
    config = changed_config(FAMILY, tmp_path, "num_blocks: 2", "num_blocks: !mylab/blocks 2")
    load(config=config)
    assert f"{config}:41: a tag that is not allowed here" in refusal(config=config, wanted=component("flow.encoder"))


def first_cosyvoice2(folder):
    """The YAML of the first CosyVoice 2 folders: one decoder class for both generations, no chunk sizes."""
    text = config_of(FAMILY).read_text(encoding="utf-8")
    for old, new in {
        "decoder.CausalConditionalDecoder\n": "decoder.ConditionalDecoder\n            causal: True\n",
        "            static_chunk_size: !ref <chunk_size> * <token_mel_ratio>\n": "",
        "            num_decoding_left_chunks: !ref <num_decoding_left_chunks>\n": "",
        "        static_chunk_size: !ref <chunk_size>\n": "",
        "    mix_ratio: [5, 15]\n": "",
    }.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "cosyvoice.yaml").write_text(text, encoding="utf-8")
    return folder / "cosyvoice.yaml"


def test_the_first_cosyvoice2_layout_gives_the_same_flow(tmp_path):
    first = load_part("flow", config=first_cosyvoice2(tmp_path), weights=weights_of(FAMILY))
    today = load_part("flow", config=config_of(FAMILY), weights=weights_of(FAMILY))
    tokens, none = torch.arange(30)[None], torch.zeros(1, 0, 80)
    given = {"prompt_token": tokens[:, :0], "prompt_feat": none, "embedding": torch.ones(1, 192)}
    assert torch.equal(first.synthesize(tokens, **given), today.synthesize(tokens, **given))


def test_chunk_wise_synthesis_without_a_chunk_size_is_refused(tmp_path):
    wanted = replace(ESTIMATOR, options={"streaming": True})
    load(wanted=wanted)
    message = refusal(config=first_cosyvoice2(tmp_path), wanted=wanted)
    assert "ConditionalDecoder has no static_chunk_size" in message
    assert "Set model.components.flow_decoder_estimator.options.streaming=false" in message


def test_a_yaml_without_the_part_is_reported(tmp_path):
    assert "has no key 'flow'" in refusal(config=changed_config(FAMILY, tmp_path, "\nflow:", "\nstream:"))


def test_a_component_that_the_yaml_does_not_describe_is_reported():
    message = refusal(wanted=component("flow.decoder.estimater"))
    assert "does not describe flow.decoder.estimater" in message
    assert "Set model=cosyvoice2" in message
