"""The language models of CosyVoice 2 and 3 compared with recorded outputs of the originals."""

import json
import os
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tasks.models.cosyvoice.folder import load_part
from tasks.models.cosyvoice.llm.qwen2_backbone import Qwen2Encoder
from tasks.models.cosyvoice.llm.sampling import nucleus_sampling, ras_sampling
from tasks.models.cosyvoice.text.qwen_config import DIMENSIONS
from tests.support.errors import error_of
from tests.support.folders import config_of, weights_of
from tests.support.golden_cases import golden_case, golden_names, golden_record
from tests.support.replay import replay_draws, worst
from tests.support.speech_lm_cases import greedy_until, loss_and_gradients

pytest.importorskip("transformers")

FAMILIES = pytest.mark.parametrize("family", ["cosyvoice2", "cosyvoice3"])
SPEECH_TOKENS = 60
BATCH = "loss_llm_unistream"


@cache
def language_model(family: str) -> nn.Module:
    return load_part("llm", config=config_of(family), weights=weights_of(family, "llm"))


@pytest.fixture
def greedy(monkeypatch):
    def make(family: str, cap: int) -> nn.Module:
        model = language_model(family)
        choose = greedy_until(cap, eos=model.special.eos, speech_tokens=SPEECH_TOKENS)
        monkeypatch.setattr(model, "sampling", choose)
        return model

    return make


@FAMILIES
def test_special_tokens_are_the_recorded_ones(family):
    special, recorded = language_model(family).special, golden_record(family)["ids"]
    assert (special.eos, special.fill) == (recorded["eos"], recorded["fill"])
    assert [special.stops[0], special.stops[-1]] == recorded["stop_token_ids"]


def test_the_end_of_an_instruction_is_what_the_folders_tokenizer_makes_of_it():
    assert language_model("cosyvoice3").end_of_prompt == golden_record("cosyvoice3")["endofprompt_id"]


@FAMILIES
@torch.no_grad()
def test_hidden_states_of_padded_rows_match_the_original(family):
    case = golden_case(family, "qwen_forward")
    hidden, valid = language_model(family).llm(case.inputs["xs"], case.inputs["xs_lens"])
    assert worst(hidden, case.outputs["ys"]) < 1e-4
    assert torch.equal(valid, case.outputs["masks"])


@FAMILIES
@torch.no_grad()
def test_successive_steps_match_the_original(family):
    cache_so_far = None
    for name in golden_names(family, "qwen_step"):
        case = golden_case(family, name)
        hidden, cache_so_far = language_model(family).llm.forward_one_step(case.inputs["xs"], cache_so_far)
        assert worst(hidden, case.outputs["ys"]) < 1e-4
        for layer in range(len(case.outputs) // 2):
            keys, values = cached(cache_so_far, layer)
            assert worst(keys, case.outputs[f"k{layer}"]) < 1e-4
            assert worst(values, case.outputs[f"v{layer}"]) < 1e-4


def cached(cache_so_far: Any, layer: int) -> tuple[Tensor, Tensor]:
    """Keys and values of a layer; older transformers have no list of layers."""
    if hasattr(cache_so_far, "layers"):
        return cache_so_far.layers[layer].keys, cache_so_far.layers[layer].values
    return cache_so_far[layer]


@FAMILIES
@pytest.mark.parametrize("name", ["lm_inference_prompt", "lm_inference_noprompt"])
def test_inference_generates_the_recorded_tokens(family, name, greedy):
    case = golden_case(family, name)
    tokens = greedy(family, cap=13).inference(
        **case.inputs, sampling=25, max_token_text_ratio=4, min_token_text_ratio=2
    )
    assert list(tokens) == case.outputs["tokens"].tolist()


@FAMILIES
@pytest.mark.parametrize("name", ["lm_bistream_a", "lm_bistream_b"])
def test_text_in_pieces_gives_the_recorded_tokens(family, name, greedy):
    case = golden_case(family, name)
    pieces = [tensor for key, tensor in case.inputs.items() if key.startswith("piece")]
    prompt = case.inputs["prompt_text"], case.inputs["prompt_speech_token"]
    tokens = greedy(family, cap=60).inference_bistream(iter(pieces), *prompt, sampling=25, max_token_text_ratio=20)
    assert list(tokens) == case.outputs["tokens"].tolist()


@FAMILIES
def test_text_in_pieces_ends_even_if_the_model_generates_no_end(family, greedy):
    case = golden_case(family, "lm_bistream_b")
    model, prompt = greedy(family, cap=10**9), (case.inputs["prompt_text"], case.inputs["prompt_speech_token"])
    tokens = list(model.inference_bistream([case.inputs["piece0"]], *prompt, sampling=25, max_token_text_ratio=9))
    assert 0 < len(tokens) <= 9 * (prompt[0].size(1) + case.inputs["piece0"].size(1))


@FAMILIES
def test_no_stop_token_comes_before_the_minimum_length(family, monkeypatch):
    model, case = language_model(family), golden_case(family, "lm_inference_prompt")

    def stop_first(logp, _decoded, _top_k):
        likeliest_first = [*range(SPEECH_TOKENS, len(logp)), *range(SPEECH_TOKENS)]
        return next(token for token in likeliest_first if torch.isfinite(logp[token]))

    monkeypatch.setattr(model, "sampling", stop_first)
    tokens = model.inference(**case.inputs, sampling=25, max_token_text_ratio=4, min_token_text_ratio=2)
    assert len(list(tokens)) == 2 * case.inputs["text"].size(1)


def test_an_instruction_may_begin_the_text_where_there_is_no_prompt(greedy):
    """Cross-lingual synthesis: without the text of the prompt, but with the instruction."""
    case = golden_case("cosyvoice3", "lm_inference_prompt")
    model, ratios = greedy("cosyvoice3", cap=13), {"max_token_text_ratio": 2, "min_token_text_ratio": 1}
    text = torch.cat([case.inputs["prompt_text"], case.inputs["text"]], dim=1)
    nothing = text[:, :0]
    speech = {"prompt_speech_token": case.inputs["prompt_speech_token"]}
    apart = model.inference(**case.inputs, sampling=25, max_token_text_ratio=4, min_token_text_ratio=2)
    at_once = model.inference(text=text, prompt_text=nothing, **speech, sampling=25, **ratios)
    assert list(at_once)[:8] == list(apart)[:8]


@pytest.mark.parametrize("method", ["inference", "inference_bistream"])
def test_a_text_without_an_instruction_is_refused(method):
    case, model = golden_case("cosyvoice3", "lm_inference_prompt"), language_model("cosyvoice3")
    inputs = {**case.inputs, "prompt_text": case.inputs["prompt_text"][:, :2]}
    limits = {"max_token_text_ratio": 4} | ({"min_token_text_ratio": 2} if method == "inference" else {})
    error = error_of(lambda: list(getattr(model, method)(**inputs, sampling=25, **limits)))
    assert error.where == ("text" if method == "inference" else "prompt_text")
    assert "<|endofprompt|>" in str(error)


@FAMILIES
@pytest.mark.parametrize("name", ["loss_llm_unistream", "loss_llm_bistream"])
def test_loss_accuracy_and_gradients_match_the_original(family, name, monkeypatch):
    case = golden_case(family, name)
    result, norms = loss_and_gradients(language_model(family), family, name, BATCH, monkeypatch)
    assert result["loss"].item() == pytest.approx(case.outputs["loss"].item(), rel=1e-4)
    assert result["acc"].item() == pytest.approx(case.outputs["acc"].item())
    assert norms == pytest.approx(case.flags["grad_norms"], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("layout", ["uni", "mixed"])
@torch.no_grad()
def test_preference_training_matches_the_original_with_its_mask_corrected(layout, monkeypatch):
    batch = golden_case("cosyvoice2", BATCH).inputs | golden_case("cosyvoice2", "forward_dpo_uni").inputs
    original, corrected = (golden_case("cosyvoice2", f"{kind}_{layout}") for kind in ("forward_dpo", "dpo_corrected"))
    left = replay_draws(monkeypatch, original.draws)
    result = language_model("cosyvoice2").forward_dpo(batch, "cpu")
    assert list(left) == []
    assert result["loss"].item() == pytest.approx(original.outputs["loss"].item(), rel=1e-4)
    assert result["acc"].item() == pytest.approx(original.outputs["acc"].item())
    assert worst(result["chosen_logps"], corrected.outputs["chosen_logps"]) < 1e-4
    assert worst(result["rejected_logps"], corrected.outputs["rejected_logps"]) < 1e-4


@FAMILIES
def test_seeded_sampling_draws_the_recorded_tokens(family):
    case = golden_case(family, "sampling")
    logp, decoded = case.inputs["logp"], case.inputs["decoded"].tolist()
    for seed in range(24):
        torch.manual_seed(seed)
        token = ras_sampling(logp, decoded, 25, top_p=0.8, top_k=25, win_size=10, tau_r=0.1)
        assert token == case.outputs["ras"][seed]
        torch.manual_seed(seed)
        assert nucleus_sampling(logp, 0.8, 25) == case.outputs["nucleus"][seed]


def test_a_missing_qwen_folder_is_named(tmp_path):
    assert "config.json" in error_of(Qwen2Encoder, pretrain_path=tmp_path / "CosyVoice-BlankEN").where


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "Expecting value"),
        ("{", ""),
        ("[]", "list"),
        ("[" * 10**5, "nested too deeply"),
        ('{"a": ' * 10**5, "nested too deeply"),
        (b"\x80\0PK" * 10**6, "is a binary file, not text"),
        ('{"vocab_size": ' + "9" * 10**5 + "}", "Exceeds the limit"),
    ],
    ids=["empty", "cut", "list", "lists", "mappings", "binary", "digits"],
)
def test_a_configuration_that_is_no_json_object_is_refused_in_one_short_line(tmp_path, text, shown):
    (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    message = str(error_of(Qwen2Encoder, pretrain_path=tmp_path))
    assert message.startswith(f"{tmp_path}/config.json: ")
    assert shown in message
    assert len(message) < 400
    assert "\n" not in message


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_configuration_that_is_no_file_is_refused(tmp_path, make):
    make(tmp_path / "config.json")
    assert "not a regular file" in error_of(Qwen2Encoder, pretrain_path=tmp_path).what


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"model_type": "llama"}, "llama"),
        ({"model_type": ["k" * 10**6]}, "kkk"),
        ({"hidden_size": "wide"}, "hidden_size: wide"),
        ({"hidden_size": None}, "hidden_size: None"),
        ({"hidden_size": 10**18}, "hidden_size: 1000000000000000000, allowed 1 to 131072"),
        ({"hidden_size": 65}, "num_attention_heads 4: not a multiple"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: 1000000000"),
        ({"num_hidden_layers": True}, "num_hidden_layers: True"),
        ({"num_attention_heads": 0}, "num_attention_heads: 0"),
        ({"num_key_value_heads": [2]}, "num_key_value_heads: list"),
        ({"intermediate_size": 1.5}, "intermediate_size: 1.5"),
        ({"vocab_size": -1}, "vocab_size: -1"),
        ({"head_dim": 10**12}, "head_dim: 1000000000000"),
        ({"rope_theta": "x"}, "rope_theta: str"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps: nan"),
        ({"rope_scaling": {"rope_type": "none such"}}, "none such"),
        ({"hidden_act": "none such"}, "none such"),
        ({"pad_token_id": 151643}, "adding_idx"),
    ],
)
def test_a_configuration_that_describes_no_qwen2_is_refused_with_its_file(tmp_path, change, shown):
    good = json.loads((config_of("cosyvoice2").parent / "CosyVoice-BlankEN" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(good | change))
    error = error_of(Qwen2Encoder, pretrain_path=tmp_path)
    assert error.where == str(tmp_path / "config.json")
    assert shown in str(error)
    assert len(str(error)) < 1000


@pytest.mark.parametrize("missing", DIMENSIONS)
def test_a_size_that_the_configuration_lacks_is_named(tmp_path, missing):
    good = json.loads((config_of("cosyvoice2").parent / "CosyVoice-BlankEN" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({name: v for name, v in good.items() if name != missing}))
    assert error_of(Qwen2Encoder, pretrain_path=tmp_path).value == f"no {missing}"


@pytest.mark.parametrize("setting", [{"num_labels": 10**12}, {"id2label": {"0": "a"}, "label2id": [1]}])
def test_settings_that_the_backbone_does_not_need_are_not_passed_on(tmp_path, setting):
    good = json.loads((config_of("cosyvoice2").parent / "CosyVoice-BlankEN" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(good | setting))
    assert Qwen2Encoder(pretrain_path=tmp_path).model.config.hidden_size == good["hidden_size"]
    assert not language_model("cosyvoice2").vllm_config(good | setting).keys() & setting.keys()


TEXT = ("llm.model.model.embed_tokens.weight", "llm.model.lm_head.weight")
SPEECH = ("speech_embedding.weight", "llm_decoder.weight", "llm_decoder.bias")


def resized(folder, names, added, family="cosyvoice2"):
    """The arguments of `load_part` for a copy of the folder where some tensors have more or fewer rows."""
    source = config_of(family).parent
    shutil.copytree(source / "CosyVoice-BlankEN", folder / "CosyVoice-BlankEN")
    shutil.copy(config_of(family), folder)
    weights = torch.load(source / "llm.pt", weights_only=True)
    for name in {*names} & weights.keys():
        more = torch.ones(max(added, 0), *weights[name].shape[1:])
        weights[name] = torch.cat([weights[name], more])[: len(weights[name]) + added]
    torch.save(weights, folder / "llm.pt")
    return {"config": folder / config_of(family).name, "weights": folder / "llm.pt"}


@pytest.mark.parametrize("added", [57, -8])
def test_a_text_vocabulary_of_another_size_is_explained_and_the_remedy_works(tmp_path, added):
    arguments, file = resized(tmp_path, TEXT, added), tmp_path / "CosyVoice-BlankEN" / "config.json"
    error = error_of(load_part, "llm", **arguments)
    assert str(error.value).startswith(f"{abs(added)} text tokens {'were added' if added > 0 else 'are missing'}")
    assert error.remedy == f"Set vocab_size to {368 + added} in {file}"
    file.write_text(file.read_text().replace('"vocab_size": 368', f'"vocab_size": {368 + added}'))
    assert load_part("llm", **arguments).text_rows() == 368 + added


@FAMILIES
@pytest.mark.parametrize("added", [10, -2])
def test_a_speech_vocabulary_of_another_size_is_explained_and_the_remedy_works(tmp_path, added, family):
    arguments = resized(tmp_path, SPEECH, added, family)
    error = error_of(load_part, "llm", **arguments)
    assert str(error.value).startswith(f"{abs(added)} speech tokens {'were added' if added > 0 else 'are missing'}")
    assert error.remedy == f"Set speech_token_size to {60 + added} in the model YAML"
    config = arguments["config"]
    config.write_text(config.read_text().replace("speech_token_size: 60", f"speech_token_size: {60 + added}"))
    assert load_part("llm", **arguments).speech_token_size == 60 + added


@pytest.mark.parametrize("size", [368, 371])
@pytest.mark.parametrize(("names", "other"), [(TEXT, 371), (SPEECH, 66)])
def test_tensors_of_a_vocabulary_that_differ_from_each_other_are_named(tmp_path, names, other, size):
    arguments = resized(tmp_path, names[:1], 3)
    file = tmp_path / "CosyVoice-BlankEN" / "config.json"
    if names == TEXT:
        file.write_text(file.read_text().replace('"vocab_size": 368', f'"vocab_size": {size}'))
    error = error_of(load_part, "llm", **arguments)
    assert f"{names[0].removeprefix('llm.')} has {other} rows" in str(error.value)
    assert f"{names[1].removeprefix('llm.')} has {other - 3} rows" in str(error.value)
    assert "Set vocab_size" not in error.remedy


@pytest.mark.parametrize("left_out", TEXT)
def test_tied_weights_may_be_saved_once_as_safetensors_saves_them(tmp_path, left_out):
    weights = torch.load(weights_of("cosyvoice2", "llm"), weights_only=True)
    save_file({name: tensor.clone() for name, tensor in weights.items() if name != left_out}, tmp_path / "llm.pt")
    model = load_part("llm", config=config_of("cosyvoice2"), weights=tmp_path / "llm.pt")
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in TEXT)


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    error = error_of(Qwen2Encoder, pretrain_path=config_of("cosyvoice2").parent / "CosyVoice-BlankEN")
    assert "pip install 'voxkiln[llm]'" in error.remedy
