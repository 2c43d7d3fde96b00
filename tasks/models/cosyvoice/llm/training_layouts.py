"""The two training layouts of the CosyVoice 2 and 3 language models: text before speech, or both in turns.

A layout is a pair: rows [length, width] that go in, and the target token after each, [length], -1 where there is none.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.models.cosyvoice.llm.common import target_row


@dataclass(frozen=True)
class Sample:
    """One training sample: what is said, embedded, and how.

    instruction, text: [n, width], embedded. speech: [m, width], embedded. tokens: [m], the same speech as tokens.
    """

    instruction: Tensor
    text: Tensor
    speech: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Marks:
    """Special rows [1, width] and the special tokens [1] that a model learns to predict."""

    sos: Tensor
    task: Tensor
    eos: Tensor
    fill: Tensor


def whole_layout(sample: Sample, marks: Marks) -> tuple[Tensor, Tensor]:
    """[start][instruction][text][task][speech]; the last text row predicts nothing, the task row the first token."""
    rows = torch.cat([marks.sos, sample.instruction, sample.text, marks.task, sample.speech])
    silent = 1 + len(sample.instruction) + len(sample.text)
    return rows, target_row(silent, sample.tokens, marks.eos, like=sample.tokens)


def mixed_layout(sample: Sample, marks: Marks, mix: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """[start][instruction], then turns of ``mix`` text and speech tokens, then [rest of text][task][rest of speech].

    The last text row of a turn predicts its first speech token, its last speech row the fill token.
    """
    texts, speeches = mix
    rows = [marks.sos, sample.instruction]
    target: list[int | Tensor] = [1 + len(sample.instruction)]
    turns = len(sample.text) // texts
    for turn in range(turns):
        spoken = slice(turn * speeches, (turn + 1) * speeches)
        rows += [sample.text[turn * texts : (turn + 1) * texts], sample.speech[spoken]]
        target += [texts - 1, sample.tokens[spoken], marks.fill]
    rest = sample.text[turns * texts :]
    rows += [rest, marks.task, sample.speech[turns * speeches :]]
    target += [len(rest), sample.tokens[turns * speeches :], marks.eos]
    return torch.cat(rows), target_row(*target, like=sample.tokens)


def fits_mixed(sample: Sample, mix: tuple[int, int]) -> bool:
    """Whether there is more speech per text than the turns use up."""
    texts, speeches = mix
    return len(sample.tokens) / len(sample.text) > speeches / texts
