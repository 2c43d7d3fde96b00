"""Loads a language model that is to be served, with proof that the folder's tokenizer fits it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tasks.models.cosyvoice import folder
from tasks.models.cosyvoice.text.tokenizer import load_tokenizer, require_rows


def load_component(component: Mapping[str, Any], *, config: Path, weights: Path) -> nn.Module:
    """As folder.load_component.

    Raises:
        UserError: as folder.load_component; the tokenizer is missing, broken, or makes tokens without a row.
    """
    module: Any = folder.load_component(component, config=config, weights=weights)
    require_rows(load_tokenizer(config), module.text_rows(), config=config)
    return module
