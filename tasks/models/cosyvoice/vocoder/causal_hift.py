"""The causal HiFT vocoder of CosyVoice 3: seven frames of look-ahead; can run while the mel still grows."""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from tasks.models.cosyvoice.vocoder.causal_conv import CausalConv1d, CausalDownsampleConv1d, CausalUpsampleConv1d
from tasks.models.cosyvoice.vocoder.causal_f0_predictor import CausalConvRNNF0Predictor
from tasks.models.cosyvoice.vocoder.hift import HiFTGenerator, splice_source
from tasks.models.cosyvoice.vocoder.hift_blocks import LayerSet
from tasks.models.cosyvoice.vocoder.source import PhaseRule, SourceNoise

_NOISE_SEED = 0


class CausalHiFTGenerator(HiFTGenerator):
    """HiFT with causal layers, except the first of the filter and the first of the pitch predictor.

    Without ``finalize`` a call returns the part of the waveform that does not depend on later frames of the mel.
    """

    LOOK_AHEAD = 4
    f0_predictor: CausalConvRNNF0Predictor

    @staticmethod
    def layers(look_ahead: int) -> LayerSet:
        """As in HiFTGenerator; all but the first are causal."""
        return LayerSet(
            first=lambda inward, outward: weight_norm(CausalConv1d(inward, outward, look_ahead + 1, side="right")),
            up=lambda inward, outward, kernel, factor: weight_norm(
                CausalUpsampleConv1d(inward, outward, kernel, factor)
            ),
            down=_down,
            block=lambda channels, kernel, dilation: weight_norm(
                CausalConv1d(channels, channels, kernel, dilation=dilation)
            ),
            last=lambda inward, outward: weight_norm(CausalConv1d(inward, outward, 7)),
        )

    @staticmethod
    def phase_rule(sampling_rate: int) -> PhaseRule:
        """As in HiFTGenerator, but the phase of a frame is held, as the next frame may be unknown."""
        return "by_sample" if sampling_rate == 22050 else "by_frame_nearest"

    def forward(self, mel: Tensor, source: Tensor, finalize: bool = True) -> Tensor:
        """Waveform of a mel and its excitation.

        Args:
            mel: [batch, in_channels, frames], log magnitudes.
            source: as in HiFTGenerator.
            finalize: this is the end of the mel; otherwise its last frames are look-ahead.

        Returns:
            [batch, frames * hop], limited to ``audio_limit``; ``look_ahead + 1`` frames shorter if not ``finalize``.
        """
        spectrum = self.fourier.transform(source.flatten(1)[:, None])
        if finalize:
            return self.filter(self.conv_pre(mel), spectrum)
        ahead = self.look_ahead
        x = self.conv_pre(mel[:, :, :-ahead], mel[:, :, -ahead:])
        return self.filter(x, spectrum[:, :, : -ahead * self.hop // self.fourier.hop])[:, : -self.hop]

    def inference(
        self,
        speech_feat: Tensor,
        cache_source: Tensor | None = None,
        *,
        noise: SourceNoise | None = None,
        finalize: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Waveform of a mel as in HiFTGenerator, with ``finalize`` as in ``forward``.

        Returns:
            without ``finalize``: waveform [batch, (frames - 8) * hop], excitation [batch, 1, (frames - 3) * hop].
        """
        f0 = self.f0_predictor.in_double(speech_feat, finalize)
        source = splice_source(cache_source, self.excitation(f0, noise))
        return self(speech_feat[:, :, : f0.shape[1]], source, finalize), source

    def excitation(self, f0: Tensor, noise: SourceNoise | None = None) -> Tensor:
        """As in HiFTGenerator; in eval mode the default noise is the same in every call and process."""
        if noise is None and not self.training:
            noise = self.fixed_noise(f0)
        return super().excitation(f0, noise)

    def fixed_noise(self, f0: Tensor) -> SourceNoise:
        """Seeded noise for ``f0`` [batch, frames]; more frames extend the same noise, so successive calls agree.

        Uniform, as in the original implementation, which draws a table of 300 s (259 MB) when it builds the model. No
        checkpoint contains the table and it differs between processes: parity with it is defined for a given noise.
        """
        generator = torch.Generator("cpu").manual_seed(_NOISE_SEED)
        phase = torch.rand(1, self.m_source.harmonics, generator=generator)
        samples = torch.rand(f0.shape[1] * self.hop, self.m_source.harmonics, generator=generator)
        return SourceNoise(phase.to(f0), samples[None].to(f0))


def _down(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1:
        return nn.Conv1d(in_channels, out_channels, kernel_size=1)
    return CausalDownsampleConv1d(in_channels, out_channels, stride)
