"""Samplers of the next speech token: nucleus sampling with a limit on repetitions.

Repetition-aware sampling: VALL-E 2, Chen et al. 2024 (arXiv:2406.05370).
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def ras_sampling(
    logp: Tensor,
    decoded: Sequence[int],
    sampling: int,
    *,
    top_p: float = 0.8,
    top_k: int = 25,
    win_size: int = 10,
    tau_r: float = 0.1,
) -> int:
    """A token by nucleus sampling; if it is too frequent in the recent tokens, a random draw from all other tokens.

    Args:
        logp: [tokens], log probabilities or unnormalized scores (the softmax is taken).
        decoded: tokens generated so far.
        sampling: kept for compatibility with the original implementation; ignored in favour of ``top_k``.
        top_p: probability mass that the nucleus must reach.
        top_k: maximum number of tokens in the nucleus.
        win_size: number of recent tokens that are examined.
        tau_r: fraction of ``win_size`` from which on a token is too frequent.
    """
    token = nucleus_sampling(logp, top_p, top_k)
    if list(decoded[-win_size:]).count(token) >= win_size * tau_r:
        others = logp.clone()
        others[token] = -torch.inf
        token = random_sampling(others, decoded, sampling)
    return token


def random_sampling(logp: Tensor, decoded: Sequence[int], sampling: int) -> int:
    """A token drawn from the full distribution; arguments as in ``ras_sampling``."""
    return _draw(logp.softmax(dim=0))


def nucleus_sampling(logp: Tensor, top_p: float, top_k: int) -> int:
    """A token drawn from the nucleus: the smallest set of likeliest tokens with mass ``top_p``, at most ``top_k``."""
    probabilities, tokens = logp.softmax(dim=0).sort(descending=True, stable=True)
    mass_before = probabilities.cumsum(dim=0) - probabilities
    size = min(int((mass_before < top_p).sum()), top_k)
    return int(tokens[_draw(probabilities[:size])])


def _draw(weights: Tensor) -> int:
    return int(weights.multinomial(1, replacement=True))
