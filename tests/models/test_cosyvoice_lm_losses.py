"""Losses of the language models: label smoothing follows its definition, preference losses match recorded values."""

import pytest
import torch
from torch.nn import functional as F

from tasks.models.cosyvoice.llm.common import IGNORED, smoothed_loss
from tasks.models.cosyvoice.llm.dpo import DPOLoss
from tests.support.golden_cases import golden_case, golden_names
from tests.support.replay import worst

FAMILIES = pytest.mark.parametrize("family", ["cosyvoice1", "cosyvoice2", "cosyvoice3"])


@pytest.fixture
def predictions():
    torch.manual_seed(0)
    target = torch.randint(0, 9, (2, 5))
    target[0, :2] = target[1, 4] = IGNORED
    return torch.randn(2, 5, 9), target


def test_without_smoothing_the_loss_is_cross_entropy(predictions):
    logits, target = predictions
    expected = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=IGNORED)
    assert smoothed_loss(logits, target, smoothing=0, length_normalized=True).item() == pytest.approx(expected.item())


def test_smoothing_shares_probability_among_the_other_tokens(predictions):
    logits, target = predictions
    counted = target != IGNORED
    smooth = F.one_hot(target[counted], 9) * (0.9 - 0.1 / 8) + 0.1 / 8
    expected = (smooth * (smooth.log() - logits[counted].log_softmax(dim=-1))).sum() / 2
    assert smoothed_loss(logits, target, smoothing=0.1, length_normalized=False).item() == pytest.approx(
        expected.item()
    )


@FAMILIES
@pytest.mark.parametrize("name", golden_names("cosyvoice1", "dpo_loss"))
def test_preference_loss_matches_the_original(family, name):
    case = golden_case(family, name)
    result = DPOLoss(**case.flags)(*(case.inputs[key] for key in ("pc", "pr", "rc", "rr")))
    for key, value in case.outputs.items():
        assert worst(getattr(result, key), value) < 1e-6
