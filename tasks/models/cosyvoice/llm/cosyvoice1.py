"""The language model of CosyVoice 1: text and speaker to speech tokens, one transformer over both."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.models.cosyvoice.encoder.espnet import EspnetEncoder
from tasks.models.cosyvoice.llm.common import (
    Sampler,
    Sampling,
    accuracy,
    moved,
    packed,
    smoothed_loss,
    spoken_tokens,
    target_row,
    without_padding,
)

_SOS, _TASK = 0, 1


class TransformerLM(nn.Module):
    """[start][speaker][text][task][speech tokens] through a causal transformer; the token after the last is the end.

    Constructor arguments are those of the published folder's ``llm``.

    Args:
        text_encoder: a ConformerEncoder, text_encoder_input_size wide at its input.
        llm: a TransformerEncoder from llm_input_size to llm_output_size, with ``forward_chunk``.
        sampling: chooses a token, see ``sampling.py``.
        lsm_weight: label smoothing.
    """

    def __init__(
        self,
        *,
        text_encoder_input_size: int,
        llm_input_size: int,
        llm_output_size: int,
        text_token_size: int,
        speech_token_size: int,
        text_encoder: EspnetEncoder,
        llm: EspnetEncoder,
        sampling: Sampler,
        length_normalized_loss: bool = True,
        lsm_weight: float = 0.0,
        spk_embed_dim: int = 192,
    ) -> None:
        super().__init__()
        self.eos = speech_token_size
        self.sampling, self.length_normalized_loss, self.lsm_weight = sampling, length_normalized_loss, lsm_weight
        self.text_embedding = nn.Embedding(text_token_size, text_encoder_input_size)
        self.text_encoder = text_encoder
        self.text_encoder_affine_layer = nn.Linear(text_encoder.output_size(), llm_input_size)
        self.llm_embedding = nn.Embedding(2, llm_input_size)
        self.llm = llm
        self.llm_decoder = nn.Linear(llm_output_size, speech_token_size + 1)
        self.speech_embedding = nn.Embedding(speech_token_size, llm_input_size)
        self.spk_embed_affine_layer = nn.Linear(spk_embed_dim, llm_input_size)

    def forward(self, batch: Mapping[str, Any], device: torch.device | str) -> dict[str, Tensor]:
        """Training loss.

        Args:
            batch: text_token [batch, texts] and speech_token [batch, tokens] with their lengths text_token_len and
                speech_token_len [batch], and embedding [batch, spk_embed_dim], the speaker's vector.

        Returns:
            scalars ``loss`` and ``acc``, the accuracy of the next speech token.
        """
        inputs, lengths, target = self.training_rows(moved(batch, device))
        hidden, _ = self.llm(inputs, lengths)
        logits = self.llm_decoder(hidden)
        loss = smoothed_loss(logits, target, smoothing=self.lsm_weight, length_normalized=self.length_normalized_loss)
        return {"loss": loss, "acc": accuracy(logits, target)}

    def training_rows(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Of ``forward``'s batch: rows [batch, length, llm_input_size], lengths [batch], targets [batch, length]."""
        texts = without_padding(*self.encode(self.text_embedding(batch["text_token"]), batch["text_token_len"]))
        speech = without_padding(batch["speech_token"], batch["speech_token_len"])
        sos, task = self.llm_embedding.weight.split(1)
        inputs = [
            torch.cat([sos, speaker, text, task, self.speech_embedding(tokens)])
            for speaker, text, tokens in zip(self._speaker(batch["embedding"]), texts, speech, strict=True)
        ]
        targets = [
            target_row(2 + len(text), tokens, tokens.new_tensor([self.eos]), like=tokens)
            for text, tokens in zip(texts, speech, strict=True)
        ]
        return *packed(inputs), packed(targets)[0]

    def encode(self, text: Tensor, text_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Embedded text [batch, texts, text_encoder_input_size] to rows [batch, texts, llm_input_size] and lengths."""
        encoded, valid = self.text_encoder(text, text_lengths, decoding_chunk_size=1, num_decoding_left_chunks=-1)
        return self.text_encoder_affine_layer(encoded), valid.squeeze(1).sum(dim=1)

    @torch.inference_mode()
    def inference(
        self,
        text: Tensor,
        prompt_text: Tensor,
        prompt_speech_token: Tensor,
        embedding: Tensor,
        *,
        sampling: int,
        max_token_text_ratio: float,
        min_token_text_ratio: float,
    ) -> Iterator[int]:
        """Speech tokens of a text, one by one.

        Args:
            text: [1, texts], what to say.
            prompt_text: [1, n], what the prompt says.
            prompt_speech_token: [1, n], the prompt's speech tokens.
            embedding: [1, spk_embed_dim], the speaker's vector; [0, spk_embed_dim] for none.
            sampling: handed on to the sampler.
            max_token_text_ratio: most speech tokens per text token of ``text``.
            min_token_text_ratio: fewest, before which the end is not considered.
        """
        rows = self._prompt(torch.cat([prompt_text, text], dim=1), prompt_speech_token, embedding)
        steps = _Steps(self.llm)
        yield from spoken_tokens(
            Sampling(self.sampling, sampling, frozenset({self.eos})),
            lambda rows: self.llm_decoder(steps(rows)[:, -1]),
            rows,
            self.speech_embedding,
            shortest=int(text.size(1) * min_token_text_ratio),
            longest=int(text.size(1) * max_token_text_ratio),
        )

    def _prompt(self, text: Tensor, speech: Tensor, embedding: Tensor) -> Tensor:
        sos, task = self.llm_embedding.weight[None].split(1, dim=1)
        encoded, _ = self.encode(self.text_embedding(text), torch.tensor([text.size(1)], device=text.device))
        speaker = [self._speaker(embedding)] if len(embedding) else []
        return torch.cat([sos, *speaker, encoded, task, self.speech_embedding(speech)], dim=1)

    def _speaker(self, embedding: Tensor) -> Tensor:
        """[batch, spk_embed_dim] to [batch, 1, llm_input_size]."""
        return self.spk_embed_affine_layer(F.normalize(embedding, dim=1))[:, None]


class _Steps:
    """Successive calls of ``forward_chunk``, which hand its caches on."""

    def __init__(self, llm: EspnetEncoder) -> None:
        self.llm, self.offset = llm, 0
        self.attention, self.convolution = torch.zeros(0, 0, 0, 0), torch.zeros(0, 0, 0, 0)

    def __call__(self, rows: Tensor) -> Tensor:
        length = rows.size(1)
        hidden, self.attention, self.convolution = self.llm.forward_chunk(
            rows,
            offset=self.offset,
            required_cache_size=-1,
            att_cache=self.attention.to(rows),
            cnn_cache=self.convolution.to(rows),
            att_mask=torch.ones(1, length, length, dtype=torch.bool, device=rows.device).tril(),
        )
        self.offset += length
        return hidden
