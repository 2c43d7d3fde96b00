"""How the language models pick the next speech token: nucleus sampling that avoids repeating itself.

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
    """A token by nucleus sampling, or, if that one was frequent lately, any other token by its probability.

    Args:
        logp: [tokens], log probabilities (or scores: only their softmax counts).
        decoded: the tokens so far.
        sampling: ignored, as published; ``top_k`` decides.
        top_p: probability mass that the nucleus must reach.
        top_k: most tokens in the nucleus.
        win_size: how many of the last tokens are looked at.
        tau_r: share of them from which on a token is too frequent.
    """
    token = nucleus_sampling(logp, top_p, top_k)
    if list(decoded[-win_size:]).count(token) >= win_size * tau_r:
        others = logp.clone()
        others[token] = -torch.inf
        token = random_sampling(others, decoded, sampling)
    return token


def random_sampling(logp: Tensor, decoded: Sequence[int], sampling: int) -> int:
    """Any token by its probability; arguments as in ``ras_sampling``."""
    return _draw(logp.softmax(dim=0))


def nucleus_sampling(logp: Tensor, top_p: float, top_k: int) -> int:
    """A token among the likeliest: at most ``top_k`` of them, no more than reach ``top_p`` together."""
    probabilities, tokens = logp.softmax(dim=0).sort(descending=True, stable=True)
    mass_before = probabilities.cumsum(dim=0) - probabilities
    size = min(int((mass_before < top_p).sum()), top_k)
    return int(tokens[_draw(probabilities[:size])])


def _draw(weights: Tensor) -> int:
    return int(weights.multinomial(1, replacement=True))
