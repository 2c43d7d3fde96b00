"""What the flows of all three generations share: token and speaker embeddings, and the prompt given in training."""

import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.models.cosyvoice.masks import valid_mask

N_TIMESTEPS = 10
PROMPTED_SHARE = 0.5
LONGEST_PROMPT = 0.3  # of the frames, in training


class TokenToMelFlow(nn.Module):
    """Embeds speech tokens and the speaker, and holds the decoder that solves the flow."""

    decoder: Any
    inference: Any  # the published arguments differ between generations in the last

    def __init__(
        self, *, input_size: int, output_size: int, spk_embed_dim: int, vocab_size: int, decoder: nn.Module
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.input_embedding = nn.Embedding(vocab_size, input_size)
        self.spk_embed_affine_layer = nn.Linear(spk_embed_dim, output_size)
        self.decoder = decoder

    def speaker(self, embedding: Tensor) -> Tensor:
        """Speaker embeddings of any length (B, spk_embed_dim) -> (B, mel)."""
        return self.spk_embed_affine_layer(F.normalize(embedding, dim=1))

    def speak(self, token: Tensor, *, prompt_token: Tensor, prompt_feat: Tensor, embedding: Tensor) -> Tensor:
        """The mel (1, mel, frames) of one whole utterance, not streamed.

        Args:
            token: int (1, T); prompt_token: int (1, P), P = 0 without a prompt.
            prompt_feat: (1, F, mel), the prompt's mel; embedding: (1, spk_embed_dim).
        """
        mel: Tensor
        mel, _ = self.inference(
            token,
            _length_of(token),
            prompt_token,
            _length_of(prompt_token),
            prompt_feat,
            _length_of(prompt_feat),
            embedding,
            **self.whole_utterance(),
        )
        return mel

    def whole_utterance(self) -> dict[str, Any]:
        """The keyword arguments with which ``inference`` makes one utterance at once."""
        raise NotImplementedError

    def embed(self, token: Tensor, lengths: Tensor) -> Tensor:
        """Tokens (B, T), negative ones being padding, -> (B, T, input_size), zero beyond each length."""
        mask = valid_mask(lengths, token.size(1)).transpose(1, 2)
        embedded = self.input_embedding(token.clamp(min=0))
        return embedded * mask.to(embedded.dtype)


def _length_of(sequence: Tensor) -> Tensor:
    """The length of one sequence (1, T, ...) as callers give it, int32 (1,)."""
    return torch.tensor([sequence.size(1)], dtype=torch.int32)


def prompt_condition(mel: Tensor, lengths: Tensor) -> Tensor:
    """Zeros like mel (B, T, C); half of the items, drawn at random, keep up to 30 % of their first frames."""
    condition = torch.zeros_like(mel)
    for item, length in enumerate(lengths.tolist()):
        if random.random() < PROMPTED_SHARE:
            continue
        prompt = random.randint(0, int(LONGEST_PROMPT * length))
        condition[item, :prompt] = mel[item, :prompt]
    return condition
