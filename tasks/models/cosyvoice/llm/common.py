"""What the language models of all generations share: packing of sequences, the loss, the choice of a token."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

# In targets: no loss here. The published models pad their inputs with the same value.
IGNORED = -1

# (log probabilities [tokens], tokens so far, published but unused top-k) -> token
Sampler = Callable[[Tensor, Sequence[int], int], int]


def moved(batch: Mapping[str, Any], device: torch.device | str) -> dict[str, Tensor]:
    """The tensors of a training batch on a device; what else it holds, such as names of utterances, is left out."""
    return {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}


def packed(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows [length, ...] stacked into [batch, longest, ...], padded with -1, and their lengths int32 [batch]."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int32, device=rows[0].device)
    return pad_sequence(list(rows), batch_first=True, padding_value=IGNORED), lengths


def without_padding(batch: Tensor, lengths: Tensor) -> list[Tensor]:
    """[batch, longest, ...] and lengths [batch] to one tensor [length, ...] per row."""
    return [row[:length] for row, length in zip(batch, lengths.tolist(), strict=True)]


def target_row(*parts: int | Tensor, like: Tensor) -> Tensor:
    """One target sequence: an int is that many ignored positions, a tensor [n] is n tokens."""
    return torch.cat([like.new_full((part,), IGNORED) if isinstance(part, int) else part for part in parts])


def smoothed_loss(logits: Tensor, target: Tensor, *, smoothing: float, length_normalized: bool) -> Tensor:
    """Kullback-Leibler divergence from label-smoothed targets (Szegedy et al. 2016), a scalar.

    Args:
        logits: [batch, length, tokens].
        target: [batch, length], -1 where there is no loss.
        smoothing: probability shared by the tokens that are not the target.
        length_normalized: mean over tokens; otherwise the sum divided by the batch size.
    """
    counted = target != IGNORED
    logp = logits[counted].log_softmax(dim=-1)
    rest = smoothing / (logits.size(-1) - 1)
    expected = torch.full_like(logp, rest).scatter_(1, target[counted][:, None], 1 - smoothing)
    divergence = F.kl_div(logp, expected, reduction="sum")
    return divergence / (counted.sum() if length_normalized else len(target))


def accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Share of the target tokens that are the likeliest; shapes as in ``smoothed_loss``."""
    counted = target != IGNORED
    return (logits.argmax(dim=-1)[counted] == target[counted]).float().mean()


@dataclass(frozen=True)
class Sampling:
    """Which token comes next.

    Args:
        choose: the sampler of the published folder, see ``sampling.py``.
        top_k: handed on to it.
        stops: tokens that end the speech.
    """

    choose: Sampler
    top_k: int
    stops: frozenset[int]

    def next_token(self, logits: Tensor, decoded: Sequence[int], banned: Collection[int] = ()) -> int:
        """The token after ``decoded`` given logits [1, tokens]; never one of ``banned``."""
        logp = logits[0].log_softmax(dim=-1)
        logp[list(banned)] = -torch.inf
        return self.choose(logp, decoded, self.top_k)


def spoken_tokens(
    sampling: Sampling,
    next_logits: Callable[[Tensor], Tensor],
    rows: Tensor,
    embedding: nn.Embedding,
    *,
    shortest: int,
    longest: int,
) -> Iterator[int]:
    """Speech tokens one by one, until a stop or ``longest`` of them; no stop is considered before ``shortest``.

    Args:
        next_logits: logits [1, tokens] after new rows [1, n, width]; it keeps what it has seen.
        rows: the first ones.
        embedding: of a speech token, the row after it.
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
