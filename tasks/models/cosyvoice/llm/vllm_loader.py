"""Loads a language model for export to vLLM, and checks that the folder's tokenizer fits it."""

from pathlib import Path

from torch import nn

from tasks.errors import UserError
from tasks.models.cosyvoice import folder
from tasks.models.cosyvoice.llm.qwen_lm import QwenSpeechLM
from tasks.models.cosyvoice.text.tokenizer import load_tokenizer, require_rows
from tasks.settings.component import ComponentSpec


def load_component(component: ComponentSpec, *, config: Path, weights: Path) -> nn.Module:
    """As folder.load_component.

    Raises:
        UserError: as folder.load_component; the language model has no layout for vLLM; the tokenizer is missing,
            broken, or makes tokens without a row.
    """
    module = folder.load_component(component, config=config, weights=weights)
    if not isinstance(module, QwenSpeechLM):
        raise UserError(
            "this language model cannot be exported to vLLM",
            where=config,
            value=type(module).__name__,
            remedy="Give the YAML of CosyVoice 2 or 3",
        )
    require_rows(load_tokenizer(config), module.text_rows(), config=config)
    return module
