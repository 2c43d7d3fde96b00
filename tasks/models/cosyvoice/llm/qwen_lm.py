"""Base of the CosyVoice 2 and 3 language models: text to speech tokens with one Qwen2.

Two layouts: the whole text before all speech, or alternating turns of text and speech tokens ("bistream"), so that
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
    generate_tokens,
    padded,
    smoothed_loss,
    to_device,
    without_padding,
)
from tasks.models.cosyvoice.llm.qwen2_backbone import Qwen2Encoder
from tasks.models.cosyvoice.llm.training_layouts import Marks, Sample, fits_mixed, mixed_layout, whole_layout
from tasks.models.cosyvoice.llm.vllm_layout import VllmExportable
from tasks.models.cosyvoice.llm.vocabulary import explain_vocabulary

SPEECH_VOCABULARY = ("speech_embedding.weight", "llm_decoder.weight", "llm_decoder.bias")  # a row for each speech token


class SpecialTokens(NamedTuple):
    """Ids in the speech token vocabulary that are not speech."""

    eos: int
    fill: int
    stops: range


class QwenSpeechLM(VllmExportable):
    """Base of Qwen2LM and CosyVoice3LM, which add ``speech_embedding``, ``llm_decoder`` and the special rows.

    Constructor arguments are those of ``llm`` in the original config.

    Args:
        speech_token_size: number of speech tokens; the ids of special tokens follow.
        special: the special tokens.
        llm: a Qwen2Encoder.
        sampling: sampler of the next token, see ``sampling.py``.
        lsm_weight: label smoothing, a probability.
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
        """The embedded instruction [n, width] of each sample of a training batch."""
        raise NotImplementedError

    def require_instruction(self, text: Tensor) -> None:
        """Require an instruction in a text [1, n], which includes that of the prompt, if the model needs one.

        Raises:
            UserError: the instruction is missing.
        """

    def split_prompt(self, prompt_text: Tensor) -> tuple[Tensor, Tensor]:
        """Split a prompt text [1, n] into the part before all turns and the part that takes part in them."""
        raise NotImplementedError

    def sizes(self) -> dict[str, int]:
        """Sizes of the declared axes that the weights fix."""
        return {"width": self.speech_embedding.embedding_dim, "tokens": self.llm_decoder.out_features}

    def explain_shapes(self, given: Mapping[str, torch.Size]) -> tuple[str, str]:
        """If only the speech vocabulary differs: why tensors of these shapes do not fit, and the remedy."""
        expected = {name: tensor.shape for name, tensor in self.state_dict().items()}
        setting = ("speech_token_size", self.speech_token_size, "the model YAML")
        return explain_vocabulary(SPEECH_VOCABULARY, given, expected, kind="speech", setting=setting)

    def forward(self, batch: Mapping[str, Any], device: torch.device | str) -> dict[str, Tensor]:
        """Training loss.

        Args:
            batch: text_token [batch, texts] and speech_token [batch, tokens] with lengths text_token_len and
                speech_token_len [batch] (CosyVoice 3: instruct_token and instruct_token_len as well).

        Returns:
            scalars ``loss`` and ``acc``, the accuracy of the next token.
        """
        logits, target = self._predictions(self.layouts(to_device(batch, device)))
        return {"loss": self._loss(logits, target), "acc": accuracy(logits, target)}

    def forward_dpo(self, batch: Mapping[str, Any], device: torch.device | str) -> dict[str, Tensor]:
        """Loss on the chosen speech, and log probabilities of chosen and rejected speech, for DPOLoss.

        For the trainer; no action uses it yet. The original implementation averages log probabilities over positions
        without a target; here the average is over positions with a target.

        Args:
            batch: as in ``forward``, with reject_speech_token [batch, tokens] and reject_speech_token_len [batch].

        Returns:
            scalars ``loss`` and ``acc`` of the chosen speech, and the mean log probability of each sequence,
            ``chosen_logps`` and ``rejected_logps`` [batch].
        """
        batch = to_device(batch, device)
        rejected = {name: batch[f"reject_{name}"] for name in ("speech_token", "speech_token_len")}
        logits, target = self._predictions([*self.layouts(batch), *self.layouts({**batch, **rejected})])
        half = len(target) // 2
        chosen, rejected_logps = mean_log_probability(logits, target).split(half)
        loss, acc = self._loss(logits[:half], target[:half]), accuracy(logits[:half], target[:half])
        return {"loss": loss, "acc": acc, "chosen_logps": chosen, "rejected_logps": rejected_logps}

    def layouts(self, batch: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Rows [length, width] and targets [length] of each sample; a random half of those that fit is in turns."""
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
        """Generate the speech tokens of a text one by one.

        Before the minimum length the original implementation excludes only one stop token; here all are excluded.

        Args:
            text: text tokens to synthesize, [1, texts].
            prompt_text: text tokens of the prompt, [1, n] (CosyVoice 3: after an instruction; without a prompt, the
                instruction is at the start of ``text``).
            prompt_speech_token: speech tokens of the prompt, [1, n].
            sampling: passed to the sampler as top-k.
            max_token_text_ratio: maximum number of speech tokens per text token of ``text``.
            min_token_text_ratio: minimum number; stop tokens are excluded before.
        """
        sos, task = (row[None] for row in self.special_rows())
        whole_text = torch.cat([prompt_text, text], dim=1)
        self.require_instruction(whole_text)
        yield from generate_tokens(
            Sampling(self.sampling, sampling, frozenset(self.special.stops)),
            self.incremental_decoder(),
            torch.cat([sos, self.llm.embed_text(whole_text), task, self.speech_embedding(prompt_speech_token)], dim=1),
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
        """Generate the speech tokens of a text that is still arriving; arguments as in ``inference``.

        For speech synthesis; no action uses it yet.

        Args:
            text: pieces [1, n] of the text tokens to synthesize.
            max_token_text_ratio: maximum number of speech tokens per text token; the original implementation has none.
        """
        before, shared = self.split_prompt(prompt_text)
        session = BistreamSession(self, before, shared, prompt_speech_token, top_k=sampling)
        for piece in text:
            yield from session.add_text(piece)
        yield from session.finish(max_token_text_ratio)

    def incremental_decoder(self) -> "IncrementalDecoder":
        """Computes logits of new rows given all rows before; holds the state of one sequence."""
        return IncrementalDecoder(self)

    def _layout(self, sample: Sample) -> tuple[Tensor, Tensor]:
        # One draw per sample whatever its length, so that seeded runs match the original implementation.
        wants_turns = random.random() < 0.5
        targets = sample.tokens.new_tensor([self.special.eos, self.special.fill])
        marks = Marks(*self.special_rows(), eos=targets[:1], fill=targets[1:])
        if wants_turns and fits_mixed(sample, self.mix):
            return mixed_layout(sample, marks, self.mix)
        return whole_layout(sample, marks)

    def _predictions(self, layouts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        rows, targets = zip(*layouts, strict=True)
        hidden, _ = self.llm(*padded(rows))
        return self.llm_decoder(hidden), padded(targets)[0]

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return smoothed_loss(logits, target, smoothing=self.lsm_weight, length_normalized=self.length_normalized_loss)


class IncrementalDecoder:
    """Successive calls of a language model with its key/value cache as state."""

    def __init__(self, model: QwenSpeechLM) -> None:
        self._model = model
        self._cache: Any = None

    def __call__(self, rows: Tensor) -> Tensor:
        """Logits [1, tokens] after the last of new rows [1, n, width]."""
        hidden, self._cache = self._model.llm.forward_one_step(rows, self._cache)
        return self._model.llm_decoder(hidden[:, -1])


def mean_log_probability(logits: Tensor, target: Tensor) -> Tensor:
    """Mean log probability of the targets of each sequence, [batch]; shapes as in ``smoothed_loss``."""
    counted = target != IGNORED
    logp = logits.log_softmax(dim=-1).gather(2, target.clamp(min=0)[..., None])[..., 0]
    return (logp * counted).sum(dim=1) / counted.sum(dim=1)
