"""The preference loss for fine-tuning a language model on pairs of chosen and rejected speech.

For the trainer; no action uses it yet.

Direct preference optimization, Rafailov et al. 2023 (arXiv:2305.18290); ``ipo``: Azar et al. 2023 (arXiv:2310.12036).
"""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class Preference(NamedTuple):
    """``loss`` is a scalar; the rewards [batch] are detached."""

    loss: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


class DPOLoss:
    """Loss on the margin by which the policy prefers the chosen speech more than the reference model does.

    Args:
        beta: strength of the regularization towards the reference model.
        label_smoothing: assumed probability of swapped labels.
        ipo: use the squared loss of IPO, which does not saturate.
    """

    def __init__(self, *, beta: float, label_smoothing: float, ipo: bool) -> None:
        self.beta, self.label_smoothing, self.ipo = beta, label_smoothing, ipo

    def __call__(
        self,
        policy_chosen_logps: Tensor,
        policy_rejected_logps: Tensor,
        reference_chosen_logps: Tensor,
        reference_rejected_logps: Tensor,
    ) -> Preference:
        """Loss and rewards of sequence log probabilities, [batch] each."""
        chosen = policy_chosen_logps - reference_chosen_logps
        rejected = policy_rejected_logps - reference_rejected_logps
        loss = self._loss(chosen - rejected).mean()
        return Preference(loss, (self.beta * chosen).detach(), (self.beta * rejected).detach())

    def _loss(self, margin: Tensor) -> Tensor:
        if self.ipo:
            return (margin - 1 / (2 * self.beta)) ** 2
        right, wrong = F.logsigmoid(self.beta * margin), F.logsigmoid(-self.beta * margin)
        return -right * (1 - self.label_smoothing) - wrong * self.label_smoothing
