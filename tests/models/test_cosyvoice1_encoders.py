"""CosyVoice 1's text encoder and language-model body: whole sequences, and chunk by chunk with the cache."""

from functools import cache

import pytest
import torch
from torch import nn

from tasks.models.cosyvoice.folder import load_component
from tests.support.folders import component, config_of, weights_of
from tests.support.golden_cases import golden_case, golden_tensor
from tests.support.replay import worst

FAMILY = "cosyvoice1"
CASES = {"llm.text_encoder": "text_encoder", "llm.llm": "llm_forward"}
CHUNKS = ("llm_chunk0", "llm_chunk1", "llm_chunk2", "llm_chunk3")
NO_CACHE = torch.zeros(0, 0, 0, 0)


@cache
def eager(name: str) -> nn.Module:
    return load_component(component(name), config=config_of(FAMILY), weights=weights_of(FAMILY, "llm"))


@cache
def scripted(name: str) -> torch.jit.ScriptModule:
    return torch.jit.freeze(torch.jit.script(eager(name)), preserved_attrs=["forward_chunk"])


MODES = pytest.mark.parametrize("mode", [eager, scripted], ids=["eager", "scripted"])


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def step(body, xs, *, cached, offset=0, required=-1, mask=None):
    att_mask = torch.ones(0, 0, 0, dtype=torch.bool) if mask is None else mask
    return body.forward_chunk(
        xs, offset=offset, required_cache_size=required, att_cache=cached, cnn_cache=NO_CACHE, att_mask=att_mask
    )


@MODES
@pytest.mark.parametrize("name", CASES)
def test_whole_sequences_give_the_recorded_hidden_states_and_mask(mode, name):
    case = golden_case(FAMILY, CASES[name])
    hidden, mask = mode(name)(case.inputs["xs"], case.inputs["xs_lens"])
    assert worst(hidden, case.outputs["ys"]) <= 1e-5
    assert torch.equal(mask, case.outputs["masks"])


@MODES
def test_decoding_options_kept_for_compatibility_change_nothing(mode):
    case = golden_case(FAMILY, "text_encoder")
    hidden, _ = mode("llm.text_encoder")(**case.inputs, decoding_chunk_size=1, num_decoding_left_chunks=-1)
    assert worst(hidden, case.outputs["ys"]) <= 1e-5


@MODES
def test_successive_chunks_give_the_recorded_hidden_states_and_caches(mode):
    cached = NO_CACHE
    for name in CHUNKS:
        case = golden_case(FAMILY, name)
        hidden, cached, convolutions = step(
            mode("llm.llm"), case.inputs["xs"], cached=cached, offset=case.flags.get("offset", 0),
            mask=case.inputs["att_mask"],
        )  # fmt: skip
        assert worst(hidden, case.outputs["ys"]) <= 1e-5
        assert worst(cached, case.outputs["att_cache"]) <= 1e-5
        assert convolutions.shape == (2, 0, 0, 0)


@MODES
def test_a_required_cache_size_cuts_the_cache_as_recorded(mode):
    case = golden_case(FAMILY, "llm_chunk_req6")
    before = golden_tensor(FAMILY, "llm_chunk3.out.att_cache")
    hidden, cached, _ = step(
        mode("llm.llm"), case.inputs["xs"], cached=before, mask=case.inputs["att_mask"], offset=14, required=6
    )
    assert worst(hidden, case.outputs["ys"]) <= 1e-5
    assert worst(cached, case.outputs["att_cache"]) <= 1e-5
    assert cached.size(2) == 6


@MODES
def test_a_required_cache_size_of_zero_keeps_nothing(mode):
    _, cached, _ = step(mode("llm.llm"), torch.randn(1, 3, 64), cached=NO_CACHE, required=0)
    assert cached.shape == (2, 4, 0, 28)


@MODES
def test_chunks_add_up_to_the_whole_sequence(mode):
    xs = torch.randn(1, 12, 64, generator=torch.Generator().manual_seed(3))
    whole, _ = eager("llm.llm")(xs, torch.tensor([12]))
    cached, parts = NO_CACHE, []
    for start, end in ((0, 5), (5, 6), (6, 12)):
        mask = torch.ones(1, end - start, end, dtype=torch.bool).tril(diagonal=start)
        part, cached, _ = step(mode("llm.llm"), xs[:, start:end], cached=cached, offset=start, mask=mask)
        parts.append(part)
    assert worst(torch.cat(parts, dim=1), whole) <= 1e-5


def test_decoding_goes_on_beyond_five_thousand_positions():
    cached = torch.randn(2, 4, 6000, 28, generator=torch.Generator().manual_seed(0))
    xs = torch.randn(1, 2, 64, generator=torch.Generator().manual_seed(1))
    both, grown, _ = step(
        eager("llm.llm"), xs, cached=cached, offset=6000, mask=torch.ones(1, 2, 6002).tril(6000).bool()
    )
    _, first, _ = step(eager("llm.llm"), xs[:, :1], cached=cached, offset=6000)
    second, _, _ = step(eager("llm.llm"), xs[:, 1:], cached=first, offset=6001)
    assert grown.size(2) == 6002
    assert worst(both[:, 1:], second) <= 1e-5
