"""Runs the inference and the loss of a flow on recorded cases."""

import pytest
import torch
from torch import Tensor, nn

from tests.support.golden_cases import golden_case
from tests.support.replay import replay_draws

LENGTHS = ("token", "prompt_token", "prompt_feat")


def run_inference(flow: nn.Module, family: str, name: str) -> Tensor:
    case = golden_case(family, name)
    lengths = {f"{key}_len": torch.tensor([case.inputs[key].size(1)], dtype=torch.int32) for key in LENGTHS}
    mel, cache = flow.inference(**case.inputs, **lengths, **case.flags)
    assert cache is None
    return mel


def loss_and_gradients(
    flow: nn.Module, family: str, name: str, batch: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[float, dict[str, float]]:
    """The loss under the recorded random draws, and each parameter's gradient norm."""
    left = replay_draws(monkeypatch, golden_case(family, name).draws)
    flow.zero_grad()
    loss = flow(golden_case(family, batch).inputs, "cpu")["loss"]
    assert list(left) == [], "the reference drew more random numbers"
    loss.backward()
    return loss.item(), {key: parameter.grad.norm().item() for key, parameter in flow.named_parameters()}


def total_norm(norms: dict[str, float]) -> float:
    return sum(norm**2 for norm in norms.values()) ** 0.5
