"""Shared by the causal flows of CosyVoice 2 and 3: speech tokens to mel by flow matching.

A subclass defines in ``encode`` how tokens become hidden states at the frame rate of the mel.
"""

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tasks.models.cosyvoice.flow.base import N_TIMESTEPS, TokenToMelFlow, prompt_condition

STREAMING_SHARE = 0.5  # of the training batches


MAX_TOKEN_MEL_RATIO = 16  # frames for each token; published models have 2


class CausalFlow(TokenToMelFlow):
    """Speech tokens and a speaker embedding to a mel, offline or in chunks."""

    def __init__(self, *, token_mel_ratio: int, pre_lookahead_len: int, **common: Any) -> None:
        """``common`` are the arguments of TokenToMelFlow."""
        super().__init__(**common)
        if not 1 <= token_mel_ratio <= MAX_TOKEN_MEL_RATIO:
            raise ValueError(f"token_mel_ratio must be from 1 to {MAX_TOKEN_MEL_RATIO}")
        self.token_mel_ratio = token_mel_ratio
        self.pre_lookahead_len = pre_lookahead_len

    def encode(
        self, embedded: Tensor, lengths: Tensor, context: Tensor | None, streaming: bool
    ) -> tuple[Tensor, Tensor]:
        """Token embeddings (B, T, C) -> (B, T * ratio, mel) and the mask, bool (B, 1, T * ratio)."""
        raise NotImplementedError

    def forward(self, batch: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
        """The flow-matching loss of a batch, ``{"loss": scalar}``.

        ``batch`` contains speech_token (B, T), speech_token_len (B,), speech_feat (B, T * ratio, mel),
        speech_feat_len (B,) and embedding (B, spk_embed_dim). A random half of the batches trains the streaming mode.
        """
        token, lengths = batch["speech_token"].to(device), batch["speech_token_len"].to(device)
        mel, mel_lengths = batch["speech_feat"].to(device), batch["speech_feat_len"].to(device)
        streaming = random.random() < STREAMING_SHARE
        speaker = self.speaker(batch["embedding"].to(device))
        hidden, mask = self.encode(self.embed(token, lengths), lengths, None, streaming)
        loss = self.decoder.compute_loss(
            mel.transpose(1, 2).contiguous(),
            mask.to(hidden.dtype),
            hidden.transpose(1, 2).contiguous(),
            spks=speaker,
            cond=prompt_condition(mel, mel_lengths).transpose(1, 2),
            streaming=streaming,
        )
        return {"loss": loss}

    def offline_options(self) -> dict[str, Any]:
        return {"streaming": False, "finalize": True}

    @torch.inference_mode()
    def inference(  # noqa: PLR0917 - the original order
        self,
        token: Tensor,
        token_len: Tensor,
        prompt_token: Tensor,
        prompt_token_len: Tensor,
        prompt_feat: Tensor,
        prompt_feat_len: Tensor,
        embedding: Tensor,
        *,
        streaming: bool,
        finalize: bool,
    ) -> tuple[Tensor, None]:
        """The mel of one utterance without its prompt, (1, mel, frames), fp32.

        Args:
            token: int (1, T); prompt_token: int (1, P); their lengths (1,).
            prompt_feat: (1, F, mel).
            prompt_feat_len: kept for compatibility with the original implementation; ignored.
            embedding: (1, spk_embed_dim).
            streaming: attend in chunks.
            finalize: this is the end of the utterance; otherwise the last ``pre_lookahead_len`` tokens are look-ahead.
        """
        embedded = self.embed(torch.cat((prompt_token, token), dim=1), token_len + prompt_token_len)
        ahead = embedded.size(1) - (0 if finalize else self.pre_lookahead_len)
        hidden, _ = self.encode(embedded[:, :ahead], prompt_token_len + token_len, embedded[:, ahead:], streaming)
        condition = hidden.new_zeros(1, hidden.size(1), self.output_size)
        condition[:, : prompt_feat.size(1)] = prompt_feat
        mel = self.decoder(
            hidden.transpose(1, 2).contiguous(),
            hidden.new_ones(1, 1, hidden.size(1)),
            N_TIMESTEPS,
            spks=self.speaker(embedding),
            cond=condition.transpose(1, 2),
            streaming=streaming,
        )
        return mel[:, :, prompt_feat.size(1) :].float(), None
