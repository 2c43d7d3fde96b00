"""The solver of CosyVoice 1: new noise in each call, except where a call overlaps the previous one."""

import torch
from torch import Tensor

from tasks.models.cosyvoice.flow.solver import FlowMatching

OVERLAP = 34  # frames that successive chunks share


class ConditionalCFM(FlowMatching):
    """Reuses the noise and the encoded mel of the prompt and of the last frames, so that chunks join smoothly."""

    def forward(
        self,
        mu: Tensor,
        mask: Tensor,
        n_timesteps: int,
        *,
        spks: Tensor,
        cond: Tensor,
        prompt_len: int,
        cache: Tensor,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """The mel (1, mel, T) for an encoded mel mu (1, mel, T), and the cache for the next call.

        Args:
            mask: (1, 1, T); spks: (1, mel); cond: (1, mel, T), as the estimator takes them.
            prompt_len: number of prompt frames in mu.
            cache: (1, mel, c, 2), noise and mu of the first c frames; c = 0 at the start.
        """
        kept = cache.size(2)
        z = torch.cat((cache[..., 0], (torch.randn_like(mu) * temperature)[:, :, kept:]), dim=2)
        mu = torch.cat((cache[..., 1], mu[:, :, kept:]), dim=2)
        both = torch.stack((z, mu), dim=-1)
        cache = torch.cat((both[:, :, :prompt_len], both[:, :, -OVERLAP:]), dim=2)
        return self.solve(z, mask, mu, spks=spks, cond=cond, n_timesteps=n_timesteps), cache
