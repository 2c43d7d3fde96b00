"""What an inference server is given of a language model: an ordinary one, whose vocabulary are the speech tokens.

The layout that published deployments load into vLLM: the speech embedding in the place of the text embedding, the
decoder in that of the head, everything in bf16. Prompts reach the server as rows, which is why no text is needed.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

SERVED_DTYPE = torch.bfloat16
# With a bias in the head it is no plain Qwen2: published deployments register a class of this name with vLLM.
WITH_BIAS = "CosyVoice2ForCausalLM"
TEXT_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
NEWER_DTYPE = "dtype"  # transformers 5 writes it instead of torch_dtype, which all versions read


class ServedLM(nn.Module):
    """Base of language models that can be served; nothing here changes the model.

    Attributes:
        llm: a Qwen2Encoder. speech_embedding, llm_decoder: rows of speech tokens, and hidden states to logits.
    """

    llm: Any
    speech_embedding: nn.Embedding
    llm_decoder: nn.Linear

    def served_tensors(self) -> dict[str, Tensor]:
        """Copies in bf16 under the names that ``transformers`` has for them."""
        backbone = self.llm.model.model.state_dict()
        tensors = {f"model.{name}": tensor for name, tensor in backbone.items() if not name.startswith("embed_tokens.")}
        tensors["model.embed_tokens.weight"] = self.speech_embedding.weight
        tensors |= {f"lm_head.{name}": tensor for name, tensor in self.llm_decoder.state_dict().items()}
        return {name: tensor.detach().to(SERVED_DTYPE, copy=True) for name, tensor in sorted(tensors.items())}

    def served_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config.json of the folder's text model, changed to what ``served_tensors`` holds."""
        biased = self.llm_decoder.bias is not None
        kept = {name: value for name, value in _without_text_tokens(config).items() if name != NEWER_DTYPE}
        return kept | {
            "architectures": [WITH_BIAS] if biased else ["Qwen2ForCausalLM"],
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "use_bias": biased,
            "vocab_size": self.speech_embedding.num_embeddings,
        }

    def served_generation(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The generation_config.json that goes with it."""
        return _without_text_tokens(config)

    def text_rows(self) -> int:
        """How many text tokens have a row of their own."""
        return int(self.llm.model.model.embed_tokens.num_embeddings)

    def special_rows(self) -> tuple[Tensor, Tensor]:
        """The rows [1, width] that open a sequence and that ask for speech."""
        raise NotImplementedError

    def prompt(self, text: Tensor) -> Tensor:
        """Rows [1, n + 2, width] that ask for the speech of a text [1, n]."""
        sos, task = (row[None] for row in self.special_rows())
        return torch.cat([sos, self.llm.embed_text(text), task], dim=1)

    def logits(self, rows: Tensor) -> Tensor:
        """Logits [batch, length, tokens] after each of the rows [batch, length, width]."""
        hidden, _ = self.llm(rows, torch.full((rows.size(0),), rows.size(1), device=rows.device))
        return self.llm_decoder(hidden)


def _without_text_tokens(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the ids that the text vocabulary gave to its ends: here they would be speech."""
    return {name: value for name, value in config.items() if name not in TEXT_TOKEN_IDS}
