"""Shared by the flows of all three generations: token and speaker embeddings, and prompts in training."""

import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.models.cosyvoice.masks import valid_mask

N_TIMESTEPS = 10
UNPROMPTED_SHARE = 0.5  # of the training samples
MAX_PROMPT = 0.3  # of the frames of a training sample


class TokenToMelFlow(nn.Module):
    """Embeds speech tokens and the speaker; a subclass adds the encoder, ``decoder`` solves the flow."""

    decoder: Any
    inference: Any  # the last arguments of the original method differ between generations

    def __init__(
        self, *, input_size: int, output_size: int, spk_embed_dim: int, vocab_size: int, decoder: nn.Module
    ) -> None:
        super().__init__()
        _require_bands(decoder, output_size)
        self.output_size = output_size
        self.input_embedding = nn.Embedding(vocab_size, input_size)
        self.spk_embed_affine_layer = nn.Linear(spk_embed_dim, output_size)
        self.decoder = decoder

    def speaker(self, embedding: Tensor) -> Tensor:
        """Speaker embeddings of any norm (B, spk_embed_dim) -> (B, mel)."""
        return self.spk_embed_affine_layer(F.normalize(embedding, dim=1))

    def synthesize(self, token: Tensor, *, prompt_token: Tensor, prompt_feat: Tensor, embedding: Tensor) -> Tensor:
        """The mel (1, mel, frames), fp32, of one complete utterance (offline mode).

        Args:
            token: int (1, T); prompt_token: int (1, P), P = 0 without a prompt.
            prompt_feat: (1, F, mel), mel of the prompt; embedding: (1, spk_embed_dim).
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
            **self.offline_options(),
        )
        return mel

    def offline_options(self) -> dict[str, Any]:
        """Keyword arguments of ``inference`` for a complete utterance."""
        raise NotImplementedError

    def embed(self, token: Tensor, lengths: Tensor) -> Tensor:
        """Tokens (B, T), negative values are padding -> (B, T, input_size), zero beyond each length."""
        mask = valid_mask(lengths, token.size(1)).transpose(1, 2)
        embedded = self.input_embedding(token.clamp(min=0))
        return embedded * mask.to(embedded.dtype)


def _require_bands(decoder: Any, output_size: int) -> None:
    bands = decoder.estimator.sizes()["mel"] if hasattr(decoder, "estimator") else output_size
    if bands != output_size:
        raise ValueError(f"the estimator has {bands} mel bands, output_size is {output_size}")


def _length_of(sequence: Tensor) -> Tensor:
    """Length of a single sequence (1, T, ...), int32 (1,)."""
    return torch.tensor([sequence.size(1)], dtype=torch.int32)


def prompt_condition(mel: Tensor, lengths: Tensor) -> Tensor:
    """Zeros like mel (B, T, C), except up to 30 % of the first frames of a random half of the items."""
    condition = torch.zeros_like(mel)
    for item, length in enumerate(lengths.tolist()):
        if random.random() < UNPROMPTED_SHARE:
            continue
        prompt = random.randint(0, int(MAX_PROMPT * length))
        condition[item, :prompt] = mel[item, :prompt]
    return condition
