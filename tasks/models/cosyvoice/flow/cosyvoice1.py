"""The flow of CosyVoice 1: a bidirectional conformer, the length regulator, and the UNet solver with its cache."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tasks.models.cosyvoice.flow.base import N_TIMESTEPS, TokenToMelFlow, prompt_condition
from tasks.models.cosyvoice.flow.length_regulator import FRAMES_PER_SECOND
from tasks.models.cosyvoice.masks import valid_mask

TOKEN_RATES = (5, 200)  # tokens per second: lowest and highest that is taken; published models have 25 and 50


class MaskedDiffWithXvec(TokenToMelFlow):
    """Constructor arguments and state-dict names are those of the original implementation.

    ``output_type`` and ``only_mask_loss`` are kept for compatibility with the original config; ignored.
    """

    def __init__(
        self,
        *,
        encoder: Any,
        length_regulator: Any,
        decoder: Any,
        input_size: int = 512,
        output_size: int = 80,
        spk_embed_dim: int = 192,
        output_type: str = "mel",
        vocab_size: int = 4096,
        input_frame_rate: int = 50,
        only_mask_loss: bool = True,
    ) -> None:
        super().__init__(
            input_size=input_size,
            output_size=output_size,
            spk_embed_dim=spk_embed_dim,
            vocab_size=vocab_size,
            decoder=decoder,
        )
        if not TOKEN_RATES[0] <= input_frame_rate <= TOKEN_RATES[1]:
            raise ValueError(f"input_frame_rate must be from {TOKEN_RATES[0]} to {TOKEN_RATES[1]} tokens per second")
        self.input_frame_rate = input_frame_rate
        self.encoder = encoder
        self.encoder_proj = nn.Linear(encoder.output_size(), output_size)
        self.length_regulator: Any = length_regulator

    def forward(self, batch: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
        """The flow-matching loss of a batch, ``{"loss": scalar}``.

        ``batch`` contains speech_token (B, T), speech_token_len (B,), speech_feat (B, F, mel), speech_feat_len (B,) and
        embedding (B, spk_embed_dim).
        """
        mel, mel_lengths = batch["speech_feat"].to(device), batch["speech_feat_len"].to(device)
        speaker = self.speaker(batch["embedding"].to(device))
        hidden = self._encode(batch["speech_token"].to(device), batch["speech_token_len"].to(device))
        hidden, _ = self.length_regulator(hidden, mel_lengths)
        loss = self.decoder.compute_loss(
            mel.transpose(1, 2).contiguous(),
            valid_mask(mel_lengths, mel.size(1)).to(hidden.dtype),
            hidden.transpose(1, 2).contiguous(),
            spks=speaker,
            cond=prompt_condition(mel, mel_lengths).transpose(1, 2),
        )
        return {"loss": loss}

    def offline_options(self) -> dict[str, Any]:
        return {"flow_cache": torch.zeros(1, self.output_size, 0, 2)}

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
        flow_cache: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The mel of one utterance without its prompt, (1, mel, frames), fp32, and the cache for the next call.

        Args:
            token: int (1, T); prompt_token: int (1, P); their lengths (1,).
            prompt_feat: (1, F, mel).
            prompt_feat_len: kept for compatibility with the original implementation; ignored.
            embedding: (1, spk_embed_dim).
            flow_cache: (1, mel, c, 2); c = 0 at the start.
        """
        hidden = self._encode(torch.cat((prompt_token, token), dim=1), token_len + prompt_token_len)
        prompt, rest = hidden.split((prompt_token.size(1), token.size(1)), dim=1)
        prompt_frames, frames = prompt_feat.size(1), int(token.size(1) / self.input_frame_rate * FRAMES_PER_SECOND)
        hidden, total = self.length_regulator.inference(prompt, rest, prompt_frames, frames, self.input_frame_rate)
        condition = hidden.new_zeros(1, total, self.output_size)
        condition[:, :prompt_frames] = prompt_feat
        mel, flow_cache = self.decoder(
            hidden.transpose(1, 2).contiguous(),
            hidden.new_ones(1, 1, total),
            N_TIMESTEPS,
            spks=self.speaker(embedding),
            cond=condition.transpose(1, 2),
            prompt_len=prompt_frames,
            cache=flow_cache,
        )
        return mel[:, :, prompt_frames:].float(), flow_cache

    def _encode(self, token: Tensor, lengths: Tensor) -> Tensor:
        hidden, _ = self.encoder(self.embed(token, lengths), lengths)
        return self.encoder_proj(hidden)
