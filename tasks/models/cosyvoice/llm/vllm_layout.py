"""The vLLM export layout of a language model: a plain causal language model whose vocabulary is the speech tokens.

The same layout as in the original deployments: the speech embedding replaces the text embedding, the speech decoder
replaces the head, and all tensors are bf16. Prompts reach the server as embeddings, so no text vocabulary is needed.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tasks.models.cosyvoice.text.qwen_config import CLASSIFIER

VLLM_DTYPE = torch.bfloat16
# Qwen2 has no bias in the head: the original deployments register a class of this name with vLLM.
ARCHITECTURE_WITH_BIAS = "CosyVoice2ForCausalLM"
TEXT_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
TRANSFORMERS5_DTYPE = "dtype"  # written by transformers 5 in place of torch_dtype, which all versions read
NOT_SERVED = {TRANSFORMERS5_DTYPE, *CLASSIFIER}


class VllmExportable(nn.Module):
    """Base of language models that can be exported for vLLM; no method changes the model.

    Attributes:
        llm: a Qwen2Encoder.
        speech_embedding: input embeddings of speech tokens.
        speech_token_size: number of speech tokens, without the special tokens that follow them.
        llm_decoder: hidden states -> logits of speech tokens.
    """

    llm: Any
    speech_token_size: int
    speech_embedding: nn.Embedding
    llm_decoder: nn.Linear

    def vllm_tensors(self) -> dict[str, Tensor]:
        """Copies of the weights in bf16 under the names of ``transformers``."""
        backbone = self.llm.model.model.state_dict()
        tensors = {f"model.{name}": tensor for name, tensor in backbone.items() if not name.startswith("embed_tokens.")}
        tensors["model.embed_tokens.weight"] = self.speech_embedding.weight
        tensors |= {f"lm_head.{name}": tensor for name, tensor in self.llm_decoder.state_dict().items()}
        return {name: tensor.detach().to(VLLM_DTYPE, copy=True) for name, tensor in sorted(tensors.items())}

    def vllm_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """config.json of the text model, changed to describe ``vllm_tensors``."""
        biased = self.llm_decoder.bias is not None
        kept = {name: value for name, value in _without_text_tokens(config).items() if name not in NOT_SERVED}
        return kept | {
            "architectures": [ARCHITECTURE_WITH_BIAS] if biased else ["Qwen2ForCausalLM"],
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "use_bias": biased,
            "vocab_size": self.speech_embedding.num_embeddings,
        }

    def vllm_generation_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """generation_config.json of the text model without its special tokens."""
        return _without_text_tokens(config)

    def vllm_prompt(self, positions: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random request: a quarter of its positions is text, which a server is given as embeddings.

        Returns:
            The rows [1, n, width] in bf16, and the speech tokens [1, m] that follow them.
        """
        texts = positions // 4
        text = torch.randint(self.text_rows(), (1, texts), generator=random)
        speech = torch.randint(self.speech_token_size, (1, positions - texts), generator=random)
        return self._rows(text).to(VLLM_DTYPE), speech

    def vllm_logits(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Logits [1, n + m, vocabulary] after each of a prompt's rows [1, n, width] and tokens [1, m]."""
        rows = torch.cat([rows.float(), self.speech_embedding(tokens)], dim=1)
        hidden, _ = self.llm(rows, torch.full((rows.size(0),), rows.size(1), device=rows.device))
        return self.llm_decoder(hidden)

    def text_rows(self) -> int:
        """Number of rows of the text embedding."""
        return int(self.llm.model.model.embed_tokens.num_embeddings)

    def special_rows(self) -> tuple[Tensor, Tensor]:
        """Embeddings [1, width] of the start token and of the task token, which precedes the speech tokens."""
        raise NotImplementedError

    def _rows(self, text: Tensor) -> Tensor:
        """Input rows [1, n + 2, width] for synthesizing a text [1, n]."""
        sos, task = (row[None] for row in self.special_rows())
        return torch.cat([sos, self.llm.embed_text(text), task], dim=1)


def _without_text_tokens(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the special token ids of the text vocabulary, which are speech tokens here."""
    return {name: value for name, value in config.items() if name not in TEXT_TOKEN_IDS}
