"""The language model that CosyVoice 2 and 3 share: text to speech tokens in one Qwen2, whole or in turns.

Two layouts: the whole text before all speech, or turns of a few text and some more speech tokens ("bistream"), so that
speech can start before the text is complete (CosyVoice 2, arXiv:2412.10117). The generations differ in special tokens.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tasks.models.cosyvoice.llm.bistream import BistreamSession
from tasks.models.cosyvoice.llm.common import (
    IGNORED,
    Sampler,
    Sampling,
    accuracy,
    moved,
    packed,
    smoothed_loss,
    spoken_tokens,
    without_padding,
)
from tasks.models.cosyvoice.llm.qwen2_backbone import Qwen2Encoder
from tasks.models.cosyvoice.llm.training_layouts import Marks, Sample, fits_mixed, mixed_layout, whole_layout
from tasks.models.cosyvoice.llm.vllm_layout import ServedLM


class SpecialTokens(NamedTuple):
    """Ids in the vocabulary of speech tokens that are not speech."""

    eos: int
    fill: int
    stops: range


class QwenSpeechLM(ServedLM):
    """Base of Qwen2LM and CosyVoice3LM, which add ``speech_embedding``, ``llm_decoder`` and the special rows.

    Constructor arguments are those of the published folder's ``llm``.

    Args:
        speech_token_size: number of speech tokens proper; the special ones follow.
        special: these.
        llm: a Qwen2Encoder.
        sampling: chooses a token, see ``sampling.py``.
        lsm_weight: label smoothing.
        mix_ratio: text and speech tokens per turn of the bistream layout.
    """

    speech_embedding: nn.Embedding
    llm_decoder: nn.Linear

    def __init__(
        self,
        *,
        speech_token_size: int,
        special: SpecialTokens,
        llm: Qwen2Encoder,
        sampling: Sampler,
        length_normalized_loss: bool,
        lsm_weight: float,
        mix_ratio: Sequence[int],
    ) -> None:
        super().__init__()
        self.speech_token_size, self.special = speech_token_size, special
        self.mix = (mix_ratio[0], mix_ratio[1])
        self.sampling, self.length_normalized_loss, self.lsm_weight = sampling, length_normalized_loss, lsm_weight
        self.llm = llm

    def instructions(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """Embedded instruction [n, width] of each sample of a training batch."""
        raise NotImplementedError

    def require_instruction(self, text: Tensor) -> None:
        """Refuse a text [1, n], that of the prompt included, which lacks what the model has always seen in it.

        Raises:
            UserError: it does.
        """

    def split_prompt(self, prompt_text: Tensor) -> tuple[Tensor, Tensor]:
        """Prompt text [1, n] as what precedes every turn and what takes part in them."""
        raise NotImplementedError

    def sizes(self) -> dict[str, int]:
        """Static sizes by the names that a component's declaration uses."""
        return {"width": self.speech_embedding.embedding_dim, "tokens": self.llm_decoder.out_features}

    def forward(self, batch: Mapping[str, Any], device: torch.device | str) -> dict[str, Tensor]:
        """Training loss.

        Args:
            batch: text_token [batch, texts] and speech_token [batch, tokens] with their lengths text_token_len and
                speech_token_len [batch] (CosyVoice 3: instruct_token and instruct_token_len as well).

        Returns:
            scalars ``loss`` and ``acc``, the accuracy of the next token.
        """
        logits, target = self._predictions(self.layouts(moved(batch, device)))
        return {"loss": self._loss(logits, target), "acc": accuracy(logits, target)}

    def forward_dpo(self, batch: Mapping[str, Any], device: torch.device | str) -> dict[str, Tensor]:
        """Loss on the preferred speech, and how likely it and the rejected speech are.

        The published code averages log probabilities over the positions without a target; here it is those with one.

        Args:
            batch: that of ``forward`` and reject_speech_token [batch, tokens], reject_speech_token_len [batch].

        Returns:
            scalars ``loss`` and ``acc`` of the preferred half, and mean log probabilities per sequence,
            ``chosen_logps`` and ``rejected_logps`` [batch].
        """
        batch = moved(batch, device)
        rejected = {name: batch[f"reject_{name}"] for name in ("speech_token", "speech_token_len")}
        logits, target = self._predictions([*self.layouts(batch), *self.layouts({**batch, **rejected})])
        half = len(target) // 2
        chosen, rejected_logps = mean_log_probability(logits, target).split(half)
        loss, acc = self._loss(logits[:half], target[:half]), accuracy(logits[:half], target[:half])
        return {"loss": loss, "acc": acc, "chosen_logps": chosen, "rejected_logps": rejected_logps}

    def layouts(self, batch: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Rows [length, width] and targets [length] of each sample; half of those that fit are laid out in turns."""
        texts = without_padding(batch["text_token"], batch["text_token_len"])
        speech = without_padding(batch["speech_token"], batch["speech_token_len"])
        return [
            self._layout(Sample(instruction, self.llm.embed_text(text), self.speech_embedding(tokens), tokens))
            for instruction, text, tokens in zip(self.instructions(batch), texts, speech, strict=True)
        ]

    @torch.inference_mode()
    def inference(
        self,
        text: Tensor,
        prompt_text: Tensor,
        prompt_speech_token: Tensor,
        *,
        sampling: int,
        max_token_text_ratio: float,
        min_token_text_ratio: float,
    ) -> Iterator[int]:
        """Speech tokens of a text, one by one.

        The published code keeps only one of the tokens that stop it from coming too early; here none of them can.

        Args:
            text: [1, texts], what to say.
            prompt_text: [1, n], what the prompt says (CosyVoice 3: after an instruction, which begins the text itself
                where there is no prompt).
            prompt_speech_token: [1, n], the prompt's speech tokens.
            sampling: handed on to the sampler.
            max_token_text_ratio: most speech tokens per text token of ``text``.
            min_token_text_ratio: fewest, before which the end is not considered.
        """
        sos, task = (row[None] for row in self.special_rows())
        spoken = torch.cat([prompt_text, text], dim=1)
        self.require_instruction(spoken)
        yield from spoken_tokens(
            Sampling(self.sampling, sampling, frozenset(self.special.stops)),
            self.steps(),
            torch.cat([sos, self.llm.embed_text(spoken), task, self.speech_embedding(prompt_speech_token)], dim=1),
            self.speech_embedding,
            shortest=int(text.size(1) * min_token_text_ratio),
            longest=int(text.size(1) * max_token_text_ratio),
        )

    @torch.inference_mode()
    def inference_bistream(
        self,
        text: Iterable[Tensor],
        prompt_text: Tensor,
        prompt_speech_token: Tensor,
        *,
        sampling: int,
        max_token_text_ratio: float,
    ) -> Iterator[int]:
        """Speech tokens of a text that is still arriving, as in ``inference``.

        Args:
            text: pieces [1, n] of what to say.
            max_token_text_ratio: most speech tokens per text token in all; the published code knows no limit.
        """
        before, shared = self.split_prompt(prompt_text)
        session = BistreamSession(self, before, shared, prompt_speech_token, top_k=sampling)
        for piece in text:
            yield from session.hear(piece)
        yield from session.finish(max_token_text_ratio)

    def steps(self) -> "Steps":
        """A fresh run of the model: logits of new rows, given all rows before."""
        return Steps(self)

    def _layout(self, sample: Sample) -> tuple[Tensor, Tensor]:
        # One draw per sample whatever its length, so that seeded runs stay comparable with the published code.
        wants_turns = random.random() < 0.5
        marks = self._marks(sample.tokens)
        if wants_turns and fits_mixed(sample, self.mix):
            return mixed_layout(sample, marks, self.mix)
        return whole_layout(sample, marks)

    def _marks(self, like: Tensor) -> Marks:
        eos, fill = like.new_tensor([self.special.eos]), like.new_tensor([self.special.fill])
        return Marks(*self.special_rows(), eos=eos, fill=fill)

    def _predictions(self, layouts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        rows, targets = zip(*layouts, strict=True)
        hidden, _ = self.llm(*packed(rows))
        return self.llm_decoder(hidden), packed(targets)[0]

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return smoothed_loss(logits, target, smoothing=self.lsm_weight, length_normalized=self.length_normalized_loss)


class Steps:
    """Successive calls of a language model, which hand its cache on."""

    def __init__(self, model: QwenSpeechLM) -> None:
        self._model = model
        self._cache: Any = None

    def __call__(self, rows: Tensor) -> Tensor:
        """Logits [1, tokens] after new rows [1, n, width]."""
        hidden, self._cache = self._model.llm.forward_one_step(rows, self._cache)
        return self._model.llm_decoder(hidden[:, -1])


def mean_log_probability(logits: Tensor, target: Tensor) -> Tensor:
    """Mean log probability of each sequence's targets, [batch]; shapes as in ``smoothed_loss``."""
    counted = target != IGNORED
    logp = logits.log_softmax(dim=-1).gather(2, target.clamp(min=0)[..., None])[..., 0]
    return (logp * counted).sum(dim=1) / counted.sum(dim=1)
