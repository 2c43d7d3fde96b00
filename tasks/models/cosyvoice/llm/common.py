"""Shared by the language models of all generations: padding of sequences, the loss, and token generation."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

# Marks positions without loss in targets. The original implementation pads inputs with the same value.
IGNORED = -1

# (log probabilities [tokens], tokens so far, top-k, which the original samplers ignore) -> token
Sampler = Callable[[Tensor, Sequence[int], int], int]


def to_device(batch: Mapping[str, Any], device: torch.device | str) -> dict[str, Tensor]:
    """The tensors of a training batch on ``device``; other entries, such as utterance names, are dropped."""
    return {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}


def padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Sequences [length, ...] as [batch, longest, ...], padded with -1, and their lengths, int32 [batch]."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int32, device=rows[0].device)
    return pad_sequence(list(rows), batch_first=True, padding_value=IGNORED), lengths


def without_padding(batch: Tensor, lengths: Tensor) -> list[Tensor]:
    """[batch, longest, ...] and lengths [batch] -> one tensor [length, ...] per item."""
    return [row[:length] for row, length in zip(batch, lengths.tolist(), strict=True)]


def target_row(*parts: int | Tensor, like: Tensor) -> Tensor:
    """One target sequence; an int part stands for that many ignored positions, a tensor part [n] for n tokens."""
    return torch.cat([like.new_full((part,), IGNORED) if isinstance(part, int) else part for part in parts])


def smoothed_loss(logits: Tensor, target: Tensor, *, smoothing: float, length_normalized: bool) -> Tensor:
    """Kullback-Leibler divergence from label-smoothed targets (Szegedy et al. 2016), a scalar.

    Args:
        logits: [batch, length, tokens].
        target: [batch, length], -1 at positions without loss.
        smoothing: probability distributed over the tokens other than the target.
        length_normalized: average over tokens; otherwise the sum is divided by the batch size.
    """
    counted = target != IGNORED
    logp = logits[counted].log_softmax(dim=-1)
    rest = smoothing / (logits.size(-1) - 1)
    expected = torch.full_like(logp, rest).scatter_(1, target[counted][:, None], 1 - smoothing)
    divergence = F.kl_div(logp, expected, reduction="sum")
    return divergence / (counted.sum() if length_normalized else len(target))


def accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Fraction of target tokens with the highest logit, a scalar; shapes as in ``smoothed_loss``."""
    counted = target != IGNORED
    return (logits.argmax(dim=-1)[counted] == target[counted]).float().mean()


@dataclass(frozen=True)
class Sampling:
    """Selects the next token.

    Args:
        choose: sampler of the model folder, see ``sampling.py``.
        top_k: passed to ``choose``.
        stops: tokens that end the sequence.
    """

    choose: Sampler
    top_k: int
    stops: frozenset[int]

    def next_token(self, logits: Tensor, decoded: Sequence[int], banned: Collection[int] = ()) -> int:
        """The token that follows ``decoded``, given logits [1, tokens]; tokens in ``banned`` are excluded."""
        logp = logits[0].log_softmax(dim=-1)
        logp[list(banned)] = -torch.inf
        return self.choose(logp, decoded, self.top_k)


def generate_tokens(
    sampling: Sampling,
    next_logits: Callable[[Tensor], Tensor],
    rows: Tensor,
    embedding: nn.Embedding,
    *,
    shortest: int,
    longest: int,
) -> Iterator[int]:
    """Generate speech tokens one by one until a stop token or ``longest`` tokens; no stop token before ``shortest``.

    Args:
        next_logits: maps new input embeddings [1, n, width] to logits [1, tokens] and keeps the earlier ones as state.
        rows: input embeddings before the first token, [1, n, width].
        embedding: input embedding of the generated tokens.
    """
    decoded: list[int] = []
    while len(decoded) < longest:
        banned = sampling.stops if len(decoded) < shortest else ()
        token = sampling.next_token(next_logits(rows), decoded, banned)
        if token in sampling.stops:
            return
        yield token
        decoded.append(token)
        rows = embedding.weight[token][None, None]
