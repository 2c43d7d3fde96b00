"""Speaking while the text still arrives: the turns between text and speech of the CosyVoice 2 and 3 language models."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tasks.models.cosyvoice.llm.common import Sampling


class BistreamSession:
    """The state of one utterance: what waits to be read, what was spoken, when the next turn is due.

    The order of reading and every position of a fill token are those of the published code, a repeated row included:
    if the text ends right after a turn, the row of the last speech token is read a second time.

    Args:
        lm: a QwenSpeechLM.
        before: [1, n] text tokens that precede all turns.
        prompt_text: [1, n] text tokens that take part in them.
        prompt_speech: [1, n] speech tokens, consumed turn by turn together with the text.
        top_k: handed on to the sampler.
    """

    def __init__(self, lm: Any, before: Tensor, prompt_text: Tensor, prompt_speech: Tensor, *, top_k: int) -> None:
        sos, self._task = (row[None] for row in lm.special_rows())
        self._lm, self._special, self._next_logits = lm, lm.special, lm.steps()
        self._texts, self._speeches = lm.mix
        self._sampling = Sampling(lm.sampling, top_k, frozenset(lm.special.stops))
        self._rows = torch.cat([sos, lm.llm.embed_text(before)], dim=1)
        self._text = lm.llm.embed_text(prompt_text)
        self._prompt = lm.speech_embedding(prompt_speech)
        self._heard = self._text.size(1)
        self._spoken: list[int] = []
        self._fill_due = self._speeches - prompt_speech.size(1) % self._speeches

    def hear(self, piece: Tensor) -> Iterator[int]:
        """Take a piece of text [1, n] and yield the speech tokens that it makes possible."""
        self._text = torch.cat([self._text, self._lm.llm.embed_text(piece)], dim=1)
        self._heard += piece.size(1)
        while self._prompt.size(1) and self._text.size(1) >= self._texts:
            self._rows = torch.cat([self._rows, self._take_text(), self._take_prompt()], dim=1)
        if self._prompt.size(1) == 0 and self._may_speak():
            yield from self._speak_until_fill()

    def finish(self, max_token_text_ratio: float) -> Iterator[int]:
        """The text is complete: yield the remaining speech tokens, in all at most so many per text token."""
        self._rows = torch.cat([self._rows, self._text, self._task], dim=1)
        eos = self._special.eos
        while len(self._spoken) < self._heard * max_token_text_ratio:
            token = self._sampled(but=eos)
            if token == eos:
                return
            yield self._speak(token)

    def _may_speak(self) -> bool:
        """Whether a turn has begun; it begins by reading text, after a fill token or at the very start."""
        after_fill = self._spoken[-1:] == [self._special.fill]
        # CosyVoice 3 never starts empty: its instruction is already there, and it speaks before the first text.
        if not after_fill and (self._spoken or self._rows.size(1) > 1):
            return True
        if self._text.size(1) < self._texts:
            return False
        self._rows = self._take_text() if after_fill else torch.cat([self._rows, self._take_text()], dim=1)
        return True

    def _speak_until_fill(self) -> Iterator[int]:
        fill = self._special.fill
        while (token := self._sampled(but=fill, forced=len(self._spoken) == self._fill_due)) != fill:
            yield self._speak(token)
        self._fill_due = len(self._spoken) + self._speeches + 1
        self._spoken.append(fill)

    def _sampled(self, *, but: int, forced: bool = False) -> int:
        """Read the rows that wait and pick a token of speech or ``but``; ``but`` itself if ``forced``."""
        logits = self._next_logits(self._rows)
        return but if forced else self._sampling.next_token(logits, self._spoken, self._sampling.stops - {but})

    def _speak(self, token: int) -> int:
        self._spoken.append(token)
        self._rows = self._lm.speech_embedding.weight[token][None, None]
        return token

    def _take_text(self) -> Tensor:
        taken, self._text = self._text[:, : self._texts], self._text[:, self._texts :]
        return taken

    def _take_prompt(self) -> Tensor:
        taken, self._prompt = self._prompt[:, : self._speeches], self._prompt[:, self._speeches :]
        return taken
