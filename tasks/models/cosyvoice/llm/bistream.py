"""Generation while the text still arrives ("bistream"): turns of text and speech of CosyVoice 2 and 3.

For speech synthesis; no action uses it yet.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tasks.models.cosyvoice.llm.common import Sampling


class BistreamSession:
    """The state of one utterance: pending input rows, generated tokens, position of the next fill token.

    The order of input rows and every position of a fill token match the original implementation, including a repeated
    row: if the text ends right after a turn, the row of the last speech token is an input twice.

    Args:
        lm: a QwenSpeechLM.
        before: [1, n] text tokens that precede all turns.
        prompt_text: [1, n] text tokens that take part in the turns.
        prompt_speech: [1, n] speech tokens, consumed turn by turn together with the text.
        top_k: passed to the sampler.
    """

    def __init__(self, lm: Any, before: Tensor, prompt_text: Tensor, prompt_speech: Tensor, *, top_k: int) -> None:
        sos, self._task = (row[None] for row in lm.special_rows())
        self._lm, self._special, self._next_logits = lm, lm.special, lm.incremental_decoder()
        self._texts_per_turn, self._speeches_per_turn = lm.mix
        self._sampling = Sampling(lm.sampling, top_k, frozenset(lm.special.stops))
        self._rows = torch.cat([sos, lm.llm.embed_text(before)], dim=1)
        self._text = lm.llm.embed_text(prompt_text)
        self._prompt = lm.speech_embedding(prompt_speech)
        self._text_length = self._text.size(1)
        self._generated: list[int] = []
        self._next_fill = self._speeches_per_turn - prompt_speech.size(1) % self._speeches_per_turn

    def add_text(self, piece: Tensor) -> Iterator[int]:
        """Append a piece of text [1, n] and yield the speech tokens that can be generated with it."""
        self._text = torch.cat([self._text, self._lm.llm.embed_text(piece)], dim=1)
        self._text_length += piece.size(1)
        while self._prompt.size(1) and self._text.size(1) >= self._texts_per_turn:
            text = self._take_text()
            speech = self._prompt[:, : self._speeches_per_turn]
            self._prompt = self._prompt[:, self._speeches_per_turn :]
            self._rows = torch.cat([self._rows, text, speech], dim=1)
        if self._prompt.size(1) == 0 and self._turn_is_open():
            yield from self._generate_until_fill()

    def finish(self, max_token_text_ratio: float) -> Iterator[int]:
        """Yield the speech tokens after the last text; at most ``max_token_text_ratio`` per text token in all."""
        self._rows = torch.cat([self._rows, self._text, self._task], dim=1)
        eos = self._special.eos
        while len(self._generated) < self._text_length * max_token_text_ratio:
            token = self._sample(allowed_stop=eos)
            if token == eos:
                return
            yield self._append(token)

    def _turn_is_open(self) -> bool:
        """Whether speech can be generated; a turn starts with text, after a fill token or at the start."""
        after_fill = self._generated[-1:] == [self._special.fill]
        # With an instruction before the turns (CosyVoice 3), the first turn generates speech without text of its own.
        if not after_fill and (self._generated or self._rows.size(1) > 1):
            return True
        if self._text.size(1) < self._texts_per_turn:
            return False
        self._rows = self._take_text() if after_fill else torch.cat([self._rows, self._take_text()], dim=1)
        return True

    def _generate_until_fill(self) -> Iterator[int]:
        fill = self._special.fill
        while (token := self._sample(allowed_stop=fill, forced=len(self._generated) == self._next_fill)) != fill:
            yield self._append(token)
        self._next_fill = len(self._generated) + self._speeches_per_turn + 1
        self._generated.append(fill)

    def _sample(self, *, allowed_stop: int, forced: bool = False) -> int:
        """Process the pending rows and sample a speech token or ``allowed_stop``; always the latter if ``forced``."""
        logits = self._next_logits(self._rows)
        if forced:
            return allowed_stop
        return self._sampling.next_token(logits, self._generated, self._sampling.stops - {allowed_stop})

    def _append(self, token: int) -> int:
        self._generated.append(token)
        self._rows = self._lm.speech_embedding.weight[token][None, None]
        return token

    def _take_text(self) -> Tensor:
        taken, self._text = self._text[:, : self._texts_per_turn], self._text[:, self._texts_per_turn :]
        return taken
