"""An option that a YAML leaves out has the default of the original class."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.models.cosyvoice.hyperyaml.builder import build
from tasks.models.cosyvoice.hyperyaml.reader import read_yaml
from tests.support.golden_cases import GOLDEN

HIFIGAN, LLM = "!new:cosyvoice.hifigan", "!new:cosyvoice.llm.llm"


def built(folder: Path, text: str) -> Any:
    """The object described by a YAML with this value, on the meta device."""
    path = folder / "cosyvoice.yaml"
    path.write_text(f"it: {text}")
    document = read_yaml(path)
    with torch.device("meta"):
        return build(document.get("it"), document)


def shape(module: Any, name: str) -> tuple[int, ...]:
    return tuple(module.state_dict()[name].shape)


@pytest.mark.parametrize(("kind", "first", "ahead"), [("", 7, 0), ("Causal", 5, 4)])
def test_vocoder(tmp_path: Path, kind: str, first: int, ahead: int) -> None:
    predictor = f"{HIFIGAN}.f0_predictor.{kind}ConvRNNF0Predictor {{}}"
    vocoder = built(tmp_path, f"{HIFIGAN}.generator.{kind}HiFTGenerator\n  f0_predictor: {predictor}\n")
    assert vocoder.sizes() == {"mel": 80, "hop": 256, "harmonics": 9}
    assert vocoder.look_ahead == ahead
    assert shape(vocoder, "conv_pre.parametrizations.weight.original1") == (512, 80, first)
    assert shape(vocoder, "f0_predictor.classifier.weight") == (1, 512)
    assert len(vocoder.source_resblocks) == 2
    assert len(vocoder.resblocks) == 6


ENCODERS = {
    "CausalMaskedDiffWithXvec": "encoder: !new:cosyvoice.transformer.upsample_encoder.UpsampleConformerEncoder"
    "\n    input_size: 512\n    output_size: 512",
    "CausalMaskedDiffWithDiT": "pre_lookahead_layer: null",
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_flow(tmp_path: Path, kind: str) -> None:
    flow = built(tmp_path, f"!new:cosyvoice.flow.flow.{kind}\n  decoder: null\n  {ENCODERS[kind]}\n")
    assert shape(flow, "input_embedding.weight") == (4096, 512)
    assert shape(flow, "spk_embed_affine_layer.weight") == (80, 192)
    assert (flow.token_mel_ratio, flow.pre_lookahead_len) == (2, 3)


@pytest.mark.parametrize("kind", ["Qwen2LM", "CosyVoice3LM"])
def test_language_model(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("transformers")
    folder = GOLDEN / "cosyvoice3" / "CosyVoice-BlankEN"
    model = built(
        tmp_path,
        f"{LLM}.{kind}\n  llm_input_size: 64\n  llm_output_size: 64\n  speech_token_size: 60\n"
        f"  llm: {LLM}.Qwen2Encoder\n    pretrain_path: {folder}\n"
        "  sampling: !name:cosyvoice.utils.common.ras_sampling {}\n",
    )
    assert (model.length_normalized_loss, model.lsm_weight, model.mix) == (True, 0.0, (5, 15))


@pytest.mark.parametrize("name", ["ras_sampling", "random_sampling"])
def test_sampling(tmp_path: Path, name: str) -> None:
    choose = built(tmp_path, f"!name:cosyvoice.utils.common.{name} {{}}\n")
    never = torch.tensor([-torch.inf, 0.0, -torch.inf])
    assert choose(never, [0] * 10, 25) == 1
