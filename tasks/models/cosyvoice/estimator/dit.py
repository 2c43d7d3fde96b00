"""The estimator of CosyVoice 3: a diffusion transformer that predicts the velocity of the flow."""

import torch
from torch import Tensor, nn

from tasks.models.cosyvoice.estimator.dit_blocks import (
    DiTBlock,
    InputEmbedding,
    Modulation,
    PlainNorm,
    RotaryEmbedding,
    Rotation,
    TimeEmbedding,
    modulated,
)
from tasks.models.cosyvoice.masks import attention_bias, attention_mask


class DiT(nn.Module):
    """Constructor arguments and state-dict names are those of the original implementation.

    Args:
        spk_dim: width of the speaker input; None: the speaker input is ignored.
        long_skip_connection: concatenate the input embedding to the output of the last block.
        out_channels: kept for compatibility with the original config; ignored, the output has ``mel_dim`` channels.
        num_decoding_left_chunks: likewise, as every chunk sees all earlier chunks.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int = 8,
        heads: int = 8,
        dim_head: int = 64,
        dropout: float = 0.1,
        ff_mult: int = 4,
        mel_dim: int = 80,
        mu_dim: int | None = None,
        long_skip_connection: bool = False,
        spk_dim: int | None = None,
        out_channels: int | None = None,
        static_chunk_size: int = 50,
        num_decoding_left_chunks: int = 2,
    ) -> None:
        super().__init__()
        self.static_chunk_size = static_chunk_size
        self.time_embed = TimeEmbedding(dim)
        self.input_embed = InputEmbedding(2 * mel_dim + (mu_dim or mel_dim), spk_dim or 0, dim)
        self.rotary_embed = RotaryEmbedding(dim_head)
        self.transformer_blocks = nn.ModuleList(
            DiTBlock(dim, heads=heads, head_width=dim_head, ff_mult=ff_mult, dropout=dropout) for _ in range(depth)
        )
        self.long_skip_connection = nn.Linear(2 * dim, dim, bias=False) if long_skip_connection else None
        self.norm = PlainNorm(dim)
        self.norm_out = Modulation(dim, 2)
        self.proj_out = nn.Linear(dim, mel_dim)

    def sizes(self) -> dict[str, int]:
        return {"mel": self.proj_out.out_features}

    def forward(  # noqa: PLR0917 - the original order, which TensorRT plans rely on
        self, x: Tensor, mask: Tensor, mu: Tensor, t: Tensor, spks: Tensor, cond: Tensor, streaming: bool = False
    ) -> Tensor:
        """The velocity at time t.

        Args:
            x: (B, mel, T), the noisy mel.
            mask: (B, 1, T), 1 on valid frames, else 0.
            mu: (B, mel, T), the mel predicted by the encoder.
            t: (B,) or 0-d, in [0, 1].
            spks: (B, spk_dim), the projected speaker embedding.
            cond: (B, mel, T), mel of the prompt, zeros elsewhere.
            streaming: attend in chunks.

        Returns:
            (B, mel, T); masked frames are not zeroed.
        """
        x, mu, cond = x.transpose(1, 2), mu.transpose(1, 2), cond.transpose(1, 2)
        time = self.time_embed(t, x.dtype)
        seen = attention_mask(mask.bool(), self.static_chunk_size if streaming else 0)
        bias = attention_bias(seen, x.dtype)
        valid = seen[:, -1].unsqueeze(2).to(x.dtype)
        rotation = Rotation(self.rotary_embed(x.size(1)), x.dtype)
        embedded = hidden = self.input_embed(x, cond, mu, spks)
        for block in self.transformer_blocks:
            hidden = block(hidden, time, bias, valid, rotation)
        if self.long_skip_connection is not None:
            hidden = self.long_skip_connection(torch.cat((hidden, embedded), dim=2))
        scale, shift = self.norm_out(time)
        return self.proj_out(modulated(self.norm(hidden), scale, shift)).transpose(1, 2)
