"""Runs a speech language model on recorded cases."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from tests.support.golden_cases import golden_case
from tests.support.replay import replay_draws


def greedy_until(cap: int, *, eos: int, speech_tokens: int) -> Callable[[Tensor, Sequence[int], int], int]:
    """The sampler of the recorded runs: the likeliest speech token; after ``cap`` tokens the end, if not excluded."""

    def choose(logp: Tensor, decoded: Sequence[int], _top_k: int) -> int:
        if len(decoded) >= cap and torch.isfinite(logp[eos]):
            return eos
        return int(logp[:speech_tokens].argmax())

    return choose


def loss_and_gradients(
    lm: nn.Module, family: str, name: str, batch: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Loss and accuracy under the recorded random draws, and each parameter's gradient norm."""
    left = replay_draws(monkeypatch, golden_case(family, name).draws)
    lm.zero_grad()
    result = lm(golden_case(family, batch).inputs, "cpu")
    assert list(left) == [], "the reference drew more random numbers"
    result["loss"].backward()
    gradients = {key: value.grad for key, value in lm.named_parameters() if value.grad is not None}
    return result, {key: gradient.norm().item() for key, gradient in gradients.items()}
