"""The two training layouts of the CosyVoice 2 and 3 language models: all text before speech, or both in turns.

A layout is a pair: input rows [length, width] and the target token after each row, [length], -1 for no target.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.models.cosyvoice.llm.common import target_row


@dataclass(frozen=True)
class Sample:
    """One training sample.

    instruction, text, speech: embedded, [n, width] each. tokens: the speech tokens that ``speech`` embeds, [n].
    """

    instruction: Tensor
    text: Tensor
    speech: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Marks:
    """Embedded special tokens ``sos`` and ``task`` [1, width], and the target tokens ``eos`` and ``fill`` [1]."""

    sos: Tensor
    task: Tensor
    eos: Tensor
    fill: Tensor


def whole_layout(sample: Sample, marks: Marks) -> tuple[Tensor, Tensor]:
    """[start][instruction][text][task][speech]; the first target is at the task row."""
    rows = torch.cat([marks.sos, sample.instruction, sample.text, marks.task, sample.speech])
    ignored = 1 + len(sample.instruction) + len(sample.text)
    return rows, target_row(ignored, sample.tokens, marks.eos, like=sample.tokens)


def mixed_layout(sample: Sample, marks: Marks, mix: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """[start][instruction], turns of ``mix`` (text, speech) tokens, then [rest of text][task][rest of speech].

    The last text row of a turn predicts its first speech token; its last speech row predicts the fill token.
    """
    texts, speeches = mix
    rows = [marks.sos, sample.instruction]
    target: list[int | Tensor] = [1 + len(sample.instruction)]
    turns = len(sample.text) // texts
    for turn in range(turns):
        part = slice(turn * speeches, (turn + 1) * speeches)
        rows += [sample.text[turn * texts : (turn + 1) * texts], sample.speech[part]]
        target += [texts - 1, sample.tokens[part], marks.fill]
    rest = sample.text[turns * texts :]
    rows += [rest, marks.task, sample.speech[turns * speeches :]]
    target += [len(rest), sample.tokens[turns * speeches :], marks.eos]
    return torch.cat(rows), target_row(*target, like=sample.tokens)


def fits_mixed(sample: Sample, mix: tuple[int, int]) -> bool:
    """Whether the sample has more speech tokens per text token than the turns consume."""
    texts, speeches = mix
    return len(sample.tokens) / len(sample.text) > speeches / texts
