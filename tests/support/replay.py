"""Replays recorded random draws, so that a loss or a sampler can be compared with its reference exactly."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

SOURCES = ((random, "random"), (random, "randint"), (torch, "rand"), (torch, "randn"), (torch, "randn_like"))


def replay_draws(monkeypatch: pytest.MonkeyPatch, draws: list[Any]) -> Iterator[Any]:
    """Make every random source return the recorded values in turn.

    Returns the iterator over the draws not yet taken: ``list(left) == []`` after the call proves that all were.
    """
    left = iter(draws)
    for owner, name in SOURCES:
        monkeypatch.setattr(owner, name, _next_of(left, tensor=owner is torch))
    return left


def _next_of(left: Iterator[Any], *, tensor: bool) -> Callable[..., Any]:
    def draw(*_args: Any, **_options: Any) -> Any:
        value = next(left)
        assert isinstance(value, torch.Tensor) is tensor, f"another kind of draw was recorded here: {value}"
        return value

    return draw


def worst(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest absolute difference; infinite where the shapes differ or ours is not finite."""
    if ours.shape != reference.shape or not torch.isfinite(ours.float()).all():
        return float("inf")
    return float((ours.double() - reference.double()).abs().max()) if ours.numel() else 0.0
