"""The language model of CosyVoice 1 compared with recorded outputs of the original, in eager mode and scripted."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from tasks.models.cosyvoice.folder import load_part
from tasks.models.cosyvoice.llm.sampling import nucleus_sampling, ras_sampling
from tests.support.folders import config_of, weights_of
from tests.support.golden_cases import Case, golden_case, golden_tensor
from tests.support.replay import worst
from tests.support.speech_lm_cases import greedy_until, loss_and_gradients

FAMILY = "cosyvoice1"
MODES = pytest.mark.parametrize("mode", ["eager", "scripted"])
CHUNKS = ["llm_chunk0", "llm_chunk1", "llm_chunk2", "llm_chunk3"]


@cache
def language_model() -> nn.Module:
    return load_part("llm", config=config_of(FAMILY), weights=weights_of(FAMILY, "llm"))


@cache
def encoder(name: str, mode: str) -> nn.Module:
    module = getattr(language_model(), name)
    return module if mode == "eager" else torch.jit.freeze(torch.jit.script(module), preserved_attrs=["forward_chunk"])


def next_chunk(llm: nn.Module, case: Case, attention: Tensor, convolution: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return llm.forward_chunk(
        case.inputs["xs"],
        offset=case.flags.get("offset", 0),
        required_cache_size=case.flags.get("required_cache_size", -1),
        att_cache=attention,
        cnn_cache=convolution,
        att_mask=case.inputs["att_mask"],
    )


@MODES
@torch.no_grad()
def test_text_encoder_matches_the_original(mode):
    case = golden_case(FAMILY, "text_encoder")
    encoded, valid = encoder("text_encoder", mode)(**case.inputs, decoding_chunk_size=1, num_decoding_left_chunks=-1)
    assert worst(encoded, case.outputs["ys"]) < 1e-4
    assert torch.equal(valid, case.outputs["masks"])


@torch.no_grad()
def test_encoded_text_matches_the_original():
    case, model = golden_case(FAMILY, "lm_encode"), language_model()
    rows, lengths = model.encode(model.text_embedding(case.inputs["ids"]), case.inputs["ids_lens"])
    assert worst(rows, case.outputs["encoder_out"]) < 1e-4
    assert torch.equal(lengths, case.outputs["lens"])


@MODES
@torch.no_grad()
def test_full_forward_matches_the_original(mode):
    case = golden_case(FAMILY, "llm_forward")
    hidden, valid = encoder("llm", mode)(**case.inputs)
    assert worst(hidden, case.outputs["ys"]) < 1e-4
    assert torch.equal(valid, case.outputs["masks"])


@MODES
@torch.no_grad()
def test_successive_chunks_match_the_original(mode):
    attention, convolution = torch.zeros(0, 0, 0, 0), torch.zeros(0, 0, 0, 0)
    for name in CHUNKS:
        case = golden_case(FAMILY, name)
        hidden, attention, convolution = next_chunk(encoder("llm", mode), case, attention, convolution)
        assert worst(hidden, case.outputs["ys"]) < 1e-4
        assert worst(attention, case.outputs["att_cache"]) < 1e-4


@MODES
@torch.no_grad()
def test_a_limited_cache_matches_the_original(mode):
    case = golden_case(FAMILY, "llm_chunk_req6")
    earlier = golden_tensor(FAMILY, "llm_chunk3.out.att_cache")
    hidden, attention, _ = next_chunk(encoder("llm", mode), case, earlier, torch.zeros(0, 0, 0, 0))
    assert worst(hidden, case.outputs["ys"]) < 1e-4
    assert worst(attention, case.outputs["att_cache"]) < 1e-4


@pytest.mark.parametrize("name", ["lm_inference_emb", "lm_inference_noemb"])
def test_inference_generates_the_recorded_tokens(name, monkeypatch):
    case, model = golden_case(FAMILY, name), language_model()
    monkeypatch.setattr(model, "sampling", greedy_until(12, eos=model.eos, speech_tokens=60))
    tokens = model.inference(**case.inputs, sampling=25, max_token_text_ratio=4, min_token_text_ratio=2)
    assert list(tokens) == case.outputs["tokens"].tolist()


def test_inference_with_a_scripted_llm_generates_the_same_tokens(monkeypatch):
    case, model = golden_case(FAMILY, "lm_inference_emb"), language_model()
    monkeypatch.setattr(model, "sampling", greedy_until(12, eos=model.eos, speech_tokens=60))
    monkeypatch.setitem(model._modules, "llm", encoder("llm", "scripted"))
    tokens = model.inference(**case.inputs, sampling=25, max_token_text_ratio=4, min_token_text_ratio=2)
    assert list(tokens) == case.outputs["tokens"].tolist()


def test_inference_ends_at_the_maximum_length(monkeypatch):
    case, model = golden_case(FAMILY, "lm_inference_emb"), language_model()
    monkeypatch.setattr(model, "sampling", greedy_until(10**9, eos=model.eos, speech_tokens=60))
    tokens = model.inference(**case.inputs, sampling=25, max_token_text_ratio=3, min_token_text_ratio=2)
    assert len(list(tokens)) == 3 * case.inputs["text"].size(1)


def test_loss_accuracy_and_gradients_match_the_original(monkeypatch):
    case = golden_case(FAMILY, "loss_llm")
    result, norms = loss_and_gradients(language_model(), FAMILY, "loss_llm", "loss_llm", monkeypatch)
    assert result["loss"].item() == pytest.approx(case.outputs["loss"].item(), rel=1e-4)
    assert result["acc"].item() == pytest.approx(case.outputs["acc"].item())
    assert norms == pytest.approx(case.flags["grad_norms"], rel=1e-3, abs=1e-6)


def test_training_does_not_change_the_batch():
    batch = golden_case(FAMILY, "loss_llm").inputs
    language_model()(batch, "cpu")
    for name, value in golden_case(FAMILY, "loss_llm").inputs.items():
        assert torch.equal(batch[name], value)


def test_seeded_sampling_draws_the_recorded_tokens():
    case = golden_case(FAMILY, "sampling")
    logp, decoded = case.inputs["logp"], case.inputs["decoded"].tolist()
    for seed in range(24):
        torch.manual_seed(seed)
        token = ras_sampling(logp, decoded, 25, top_p=0.8, top_k=25, win_size=10, tau_r=0.1)
        assert token == case.outputs["ras"][seed]
        torch.manual_seed(seed)
        assert ras_sampling(logp, decoded, 25) == token
        torch.manual_seed(seed)
        assert nucleus_sampling(logp, 0.8, 25) == case.outputs["nucleus"][seed]
