"""The transformer of the CosyVoice 2 and 3 language models: Qwen2 of the ``transformers`` library on embeddings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tasks.errors import reason, require_library
from tasks.models.cosyvoice.llm.vocabulary import explain_vocabulary
from tasks.models.cosyvoice.masks import valid_mask
from tasks.models.cosyvoice.text.qwen_config import backbone_settings, invalid_config, read_qwen_config

VOCABULARY = ("embed_tokens.weight", "lm_head.weight")  # names of tensors with a row for each text token


class Qwen2Encoder(nn.Module):
    """A Qwen2 model that returns hidden states; built from config.json alone, without network access.

    Args:
        pretrain_path: folder with config.json, ``CosyVoice-BlankEN`` of a model folder. Its weights are not read: the
            checkpoint of the language model contains them.

    Raises:
        UserError: ``transformers`` or the folder is missing, or config.json does not describe a Qwen2.

    Attributes:
        folder: ``pretrain_path``, which also has the files of the text tokenizer.
    """

    def __init__(self, *, pretrain_path: str | Path) -> None:
        super().__init__()
        self.folder = Path(pretrain_path)
        file = self.folder / "config.json"
        library = require_library("transformers", extra="llm", why="the language models of CosyVoice 2 and 3 need it")
        content = backbone_settings(read_qwen_config(file))
        try:
            config = library.Qwen2Config.from_dict(content)
            self.model = library.Qwen2ForCausalLM(config)
            # Loaders build on the meta device; the rotation frequencies, which no checkpoint has, must be real.
            with torch.device("cpu"):
                self._backbone.rotary_emb = type(self._backbone.rotary_emb)(config)
        except Exception as error:  # the library does not document its exceptions
            raise invalid_config(file, f"{type(error).__name__}: {reason(error)}") from error

    def forward(self, rows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states after the final norm.

        Args:
            rows: input embeddings [batch, length, width].
            lengths: valid rows per item, [batch].

        Returns:
            [batch, length, width] and the mask of valid rows, bool [batch, 1, length].
        """
        valid = valid_mask(lengths, rows.size(1))
        return self._backbone(inputs_embeds=rows, attention_mask=valid[:, 0], use_cache=False).last_hidden_state, valid

    def forward_one_step(self, rows: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        """Hidden states [1, n, width] of rows [1, n, width] that follow those in ``cache``, and the extended cache."""
        output = self._backbone(inputs_embeds=rows, past_key_values=cache, use_cache=True)
        return output.last_hidden_state, output.past_key_values

    def embed_text(self, tokens: Tensor) -> Tensor:
        """Text tokens [...] -> input embeddings [..., width]."""
        return self._backbone.embed_tokens(tokens)

    def explain_shapes(self, given: Mapping[str, torch.Size]) -> tuple[str, str]:
        """Why tensors of these shapes do not fit, if only the text vocabulary differs, and the remedy; else nothing."""
        expected = {name: tensor.shape for name, tensor in self.state_dict().items()}
        setting = ("vocab_size", self.model.config.vocab_size, str(self.folder / "config.json"))
        return explain_vocabulary(VOCABULARY, given, expected, kind="text", setting=setting)

    @property
    def _backbone(self) -> Any:
        return self.model.model
