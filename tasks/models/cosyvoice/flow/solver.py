"""Conditional flow matching (Lipman et al., arXiv 2210.02747): the training loss and the ODE solver.

The solver of CosyVoice 1, which reuses noise between calls, is in cached_solver.py.
"""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.errors import UserError

MAX_FRAMES = 15000  # length of the noise of the causal flow


class FlowMatching(nn.Module):
    """Solves dx = estimator(x, t) dt from noise at t = 0 to a mel at t = 1; computes the estimator's training loss."""

    def __init__(
        self,
        *,
        in_channels: int,
        cfm_params: Mapping[str, Any],
        estimator: nn.Module,
        n_spks: int = 1,
        spk_emb_dim: int = 64,
    ) -> None:
        """``in_channels``, ``n_spks`` and ``spk_emb_dim``: kept for compatibility with the original config; ignored."""
        super().__init__()
        self.estimator = estimator
        self.sigma_min = float(cfm_params["sigma_min"])
        self.cosine = cfm_params["t_scheduler"] == "cosine"
        self.training_cfg_rate = float(cfm_params["training_cfg_rate"])
        self.inference_cfg_rate = float(cfm_params["inference_cfg_rate"])

    def compute_loss(
        self, x1: Tensor, mask: Tensor, mu: Tensor, *, spks: Tensor, cond: Tensor, streaming: bool = False
    ) -> Tensor:
        """Mean squared error of the predicted velocity over the valid frames (scalar).

        Args:
            x1: (B, mel, T), the target mel.
            mask: (B, 1, T), 1 on valid frames, else 0.
            mu: (B, mel, T); spks: (B, mel); cond: (B, mel, T): inputs of the estimator.
            streaming: train the chunk-wise mode of the estimator.

        Random draws, in this order: t (rand), z (randn), and for classifier-free guidance the kept samples (rand).
        """
        t = torch.rand([x1.size(0), 1, 1], device=x1.device, dtype=x1.dtype)
        z = torch.randn_like(x1)
        y = (1 - (1 - self.sigma_min) * t) * z + t * x1
        velocity = x1 - (1 - self.sigma_min) * z
        if self.training_cfg_rate > 0:
            keep = (torch.rand(x1.size(0), device=x1.device) > self.training_cfg_rate).to(x1.dtype)
            mu, spks, cond = mu * keep.view(-1, 1, 1), spks * keep.view(-1, 1), cond * keep.view(-1, 1, 1)
        predicted = self.estimator(y, mask, mu, t.flatten(), spks, cond, streaming=streaming)
        return F.mse_loss(predicted * mask, velocity * mask, reduction="sum") / (mask.sum() * x1.size(1))

    def solve(
        self,
        z: Tensor,
        mask: Tensor,
        mu: Tensor,
        *,
        spks: Tensor,
        cond: Tensor,
        n_timesteps: int,
        streaming: bool = False,
    ) -> Tensor:
        """Euler steps with classifier-free guidance (Ho and Salimans, arXiv 2207.12598): z (1, mel, T) -> mel, fp32."""
        times = self._times(n_timesteps, mu)
        unguided = torch.zeros_like(mu), torch.zeros_like(spks), torch.zeros_like(cond)
        mu2, spks2, cond2 = (torch.cat(pair) for pair in zip((mu, spks, cond), unguided, strict=True))
        mask2, x, t, step = torch.cat((mask, mask)), z, times[0], times[1] - times[0]
        for k in range(1, len(times)):
            x2 = torch.cat((x, x)).to(spks.dtype)
            guided, free = self.estimator(x2, mask2, mu2, t.expand(2), spks2, cond2, streaming=streaming).chunk(2)
            x = x + step * ((1.0 + self.inference_cfg_rate) * guided - self.inference_cfg_rate * free)
            t = t + step
            if k + 1 < len(times):
                # As in the original implementation: from the accumulated time, not from the schedule's previous time.
                step = times[k + 1] - t
        return x.float()

    def _times(self, n_timesteps: int, like: Tensor) -> Tensor:
        times = torch.linspace(0, 1, n_timesteps + 1, device=like.device, dtype=like.dtype)
        return 1 - torch.cos(times * 0.5 * math.pi) if self.cosine else times


class CausalConditionalCFM(FlowMatching):
    """The solver of CosyVoice 2 and 3: the noise of a frame is fixed, so that chunks agree with each other."""

    @cached_property
    def noise(self) -> Tensor:
        """(1, mel, MAX_FRAMES), drawn with seed 0; the global random state is not changed."""
        estimator: Any = self.estimator
        shape = [1, estimator.sizes()["mel"], MAX_FRAMES]
        return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu")

    def forward(
        self, mu: Tensor, mask: Tensor, n_timesteps: int, *, spks: Tensor, cond: Tensor, streaming: bool = False
    ) -> Tensor:
        """The mel (1, mel, T) for an encoded mel mu (1, mel, T).

        Raises:
            UserError: more than MAX_FRAMES frames.
        """
        if mu.size(2) > MAX_FRAMES:
            raise UserError(
                f"the utterance is longer than {MAX_FRAMES} frames",
                where="flow.decoder",
                value=f"{mu.size(2)} frames",
                remedy="Split the utterance",
            )
        z = self.noise[:, :, : mu.size(2)].to(mu)
        return self.solve(z, mask, mu, spks=spks, cond=cond, n_timesteps=n_timesteps, streaming=streaming)
