"""The flow of CosyVoice 3: a look-ahead convolution, tokens repeated to the frame rate of the mel, and the DiT."""

from typing import Any

from torch import Tensor

from tasks.models.cosyvoice.flow.causal import CausalFlow
from tasks.models.cosyvoice.masks import valid_mask


class CausalMaskedDiffWithDiT(CausalFlow):
    """Constructor arguments and state-dict names are those of the original implementation.

    ``output_type``, ``input_frame_rate`` and ``only_mask_loss`` are kept for compatibility with the original config;
    ignored.
    """

    def __init__(
        self,
        *,
        pre_lookahead_layer: Any,
        decoder: Any,
        input_size: int = 512,
        output_size: int = 80,
        spk_embed_dim: int = 192,
        output_type: str = "mel",
        vocab_size: int = 4096,
        input_frame_rate: int = 50,
        only_mask_loss: bool = True,
        token_mel_ratio: int = 2,
        pre_lookahead_len: int = 3,
    ) -> None:
        super().__init__(
            input_size=input_size,
            output_size=output_size,
            spk_embed_dim=spk_embed_dim,
            vocab_size=vocab_size,
            token_mel_ratio=token_mel_ratio,
            pre_lookahead_len=pre_lookahead_len,
            decoder=decoder,
        )
        self.pre_lookahead_layer = pre_lookahead_layer

    def encode(
        self, embedded: Tensor, lengths: Tensor, context: Tensor | None, streaming: bool
    ) -> tuple[Tensor, Tensor]:
        hidden = self.pre_lookahead_layer(embedded, context=context).repeat_interleave(self.token_mel_ratio, dim=1)
        mask = valid_mask(lengths, embedded.size(1)).repeat_interleave(self.token_mel_ratio, dim=2)
        return hidden, mask
