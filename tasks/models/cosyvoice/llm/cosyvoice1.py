"""The language model of CosyVoice 1: text and speaker to speech tokens with one transformer."""

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
    generate_tokens,
    padded,
    smoothed_loss,
    target_row,
    to_device,
    without_padding,
)

_SOS, _TASK = 0, 1


class TransformerLM(nn.Module):
    """A causal transformer over [start][speaker][text][task][speech tokens], followed by the end token.

    Constructor arguments are those of ``llm`` in the original config.

    Args:
        text_encoder: a ConformerEncoder of input width text_encoder_input_size.
        llm: a TransformerEncoder from llm_input_size to llm_output_size, with ``forward_chunk``.
        sampling: sampler of the next token, see ``sampling.py``.
        lsm_weight: label smoothing, a probability.
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
            batch: text_token [batch, texts] and speech_token [batch, tokens] with lengths text_token_len and
                speech_token_len [batch], and the speaker embedding, embedding [batch, spk_embed_dim].

        Returns:
            scalars ``loss`` and ``acc``, the accuracy of the next speech token.
        """
        inputs, lengths, target = self.training_rows(to_device(batch, device))
        hidden, _ = self.llm(inputs, lengths)
        logits = self.llm_decoder(hidden)
        loss = smoothed_loss(logits, target, smoothing=self.lsm_weight, length_normalized=self.length_normalized_loss)
        return {"loss": loss, "acc": accuracy(logits, target)}

    def training_rows(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Batch as in ``forward`` -> rows [batch, length, llm_input_size], lengths [batch], targets [batch, length]."""
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
        return *padded(inputs), padded(targets)[0]

    def encode(self, text: Tensor, text_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Embedded text [batch, texts, text_encoder_input_size] -> rows [batch, texts, llm_input_size] and lengths."""
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
        """Generate the speech tokens of a text one by one.

        Args:
            text: text tokens to synthesize, [1, texts].
            prompt_text: text tokens of the prompt, [1, n].
            prompt_speech_token: speech tokens of the prompt, [1, n].
            embedding: speaker embedding [1, spk_embed_dim]; [0, spk_embed_dim] for none.
            sampling: passed to the sampler as top-k.
            max_token_text_ratio: maximum number of speech tokens per text token of ``text``.
            min_token_text_ratio: minimum number; the end token is excluded before.
        """
        rows = self._prompt(torch.cat([prompt_text, text], dim=1), prompt_speech_token, embedding)
        decoder = _IncrementalDecoder(self.llm)
        yield from generate_tokens(
            Sampling(self.sampling, sampling, frozenset({self.eos})),
            lambda rows: self.llm_decoder(decoder(rows)[:, -1]),
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
        """[batch, spk_embed_dim] -> [batch, 1, llm_input_size]."""
        return self.spk_embed_affine_layer(F.normalize(embedding, dim=1))[:, None]


class _IncrementalDecoder:
    """Successive calls of ``forward_chunk`` with its caches as state."""

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
