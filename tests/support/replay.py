"""Replays recorded random draws, so that results can be compared exactly with the reference."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

SOURCES = ((random, "random"), (random, "randint"), (torch, "rand"), (torch, "randn"), (torch, "randn_like"))


def replay_draws(monkeypatch: pytest.MonkeyPatch, draws: list[Any]) -> Iterator[Any]:
    """Make all random functions return the recorded values in order.

    Returns the iterator over the remaining draws; ``list(left) == []`` afterwards shows that all were used.
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


def worst(actual: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest absolute difference; infinite if the shapes differ or ``actual`` is not finite."""
    if actual.shape != reference.shape or not torch.isfinite(actual.float()).all():
        return float("inf")
    return float((actual.double() - reference.double()).abs().max()) if actual.numel() else 0.0
