"""The HiFT vocoder of CosyVoice 1 and 2: mel to waveform by a neural source-filter and an inverse STFT.

HiFTNet, Li et al. 2023 (arXiv:2309.09493). Parameter names, constructor arguments and their defaults are those of the
original implementation.
"""

from collections.abc import Mapping, Sequence
from itertools import repeat
from math import prod
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.models.cosyvoice.vocoder.hift_blocks import CENTRED, LayerSet, ResBlock
from tasks.models.cosyvoice.vocoder.source import HarmonicSource, PhaseRule, SourceNoise
from tasks.models.cosyvoice.vocoder.stft import ShortTimeFourier
from tasks.models.loading.weight_norm import fix_parametrized_weights

_FOURIER = MappingProxyType({"n_fft": 16, "hop_len": 4})
_MAX_MAGNITUDE = 1e2
_FINAL_SLOPE = 0.01


class HiFTGenerator(nn.Module):
    """Mel and excitation to waveform; the excitation is made from the predicted pitch.

    ``forward`` is the exported part: deterministic, with operators that every runtime supports. ``inference`` computes
    the waveform from the mel alone.

    Args:
        nb_harmonics: number of overtones of the excitation.
        nsf_alpha: amplitude of each of its sines; nsf_sigma, nsf_voiced_threshold: see HarmonicSource.
        upsample_rates: factors of the stages; their product times the hop of ``istft_params`` is samples per frame.
        conv_pre_look_right: look-ahead of the first layer of the filter, in frames; causal vocoder only.
    """

    LOOK_AHEAD = 0

    def __init__(
        self,
        *,
        f0_predictor: nn.Module,
        in_channels: int = 80,
        base_channels: int = 512,
        nb_harmonics: int = 8,
        sampling_rate: int = 22050,
        nsf_alpha: float = 0.1,
        nsf_sigma: float = 0.003,
        nsf_voiced_threshold: float = 10,
        upsample_rates: Sequence[int] = (8, 8),
        upsample_kernel_sizes: Sequence[int] = (16, 16),
        istft_params: Mapping[str, int] = _FOURIER,
        resblock_kernel_sizes: Sequence[int] = (3, 7, 11),
        resblock_dilation_sizes: Sequence[Sequence[int]] = ((1, 3, 5),) * 3,
        source_resblock_kernel_sizes: Sequence[int] = (7, 11),
        source_resblock_dilation_sizes: Sequence[Sequence[int]] = ((1, 3, 5),) * 2,
        lrelu_slope: float = 0.1,
        audio_limit: float = 0.99,
        conv_pre_look_right: int | None = None,
    ) -> None:
        super().__init__()
        if any(not 1 <= rate <= size for rate, size in zip(upsample_rates, upsample_kernel_sizes, strict=True)):
            raise ValueError("each of upsample_rates must be from 1 to its kernel size")
        self.in_channels, self.lrelu_slope, self.audio_limit = in_channels, lrelu_slope, audio_limit
        self.look_ahead = self.LOOK_AHEAD if conv_pre_look_right is None else conv_pre_look_right
        self.blocks_per_stage = len(resblock_kernel_sizes)
        self.fourier = ShortTimeFourier(istft_params["n_fft"], istft_params["hop_len"])
        self.hop = prod(upsample_rates) * self.fourier.hop
        self.m_source = HarmonicSource(
            sampling_rate=sampling_rate,
            hop=self.hop,
            overtones=nb_harmonics,
            amplitude=nsf_alpha,
            noise_std=nsf_sigma,
            voiced_threshold=nsf_voiced_threshold,
            phase_rule=self.phase_rule(sampling_rate),
        )
        layers = self.layers(self.look_ahead)
        self._build_filter(layers, base_channels, upsample_rates, upsample_kernel_sizes)
        widths = [base_channels // 2 ** (stage + 1) for stage in range(len(upsample_rates))]
        self.source_resblocks = nn.ModuleList(
            map(ResBlock, widths, source_resblock_kernel_sizes, source_resblock_dilation_sizes, repeat(layers))
        )
        self.resblocks = nn.ModuleList(
            ResBlock(width, kernel_size, dilations, layers)
            for width in widths
            for kernel_size, dilations in zip(resblock_kernel_sizes, resblock_dilation_sizes, strict=True)
        )
        self.f0_predictor = f0_predictor

    @staticmethod
    def layers(look_ahead: int) -> LayerSet:
        """Constructors of the convolutions; the causal vocoder uses ``look_ahead``, in frames."""
        return CENTRED

    @staticmethod
    def phase_rule(sampling_rate: int) -> PhaseRule:
        """Phase rule of the excitation; it depends on the sampling rate, as in the original implementation."""
        return "by_sample" if sampling_rate == 22050 else "by_frame_linear"

    def sizes(self) -> dict[str, int]:
        """Static sizes by the names that a component's declaration uses; ``hop`` is in samples per frame."""
        return {"mel": self.in_channels, "hop": self.hop, "harmonics": self.m_source.harmonics}

    def forward(self, mel: Tensor, source: Tensor) -> Tensor:
        """Waveform of a mel and its excitation.

        Args:
            mel: [batch, in_channels, frames], log magnitudes.
            source: [batch, 1, frames * hop], from ``excitation``; or the same samples as [batch, frames, hop], so
                that no axis of an exported graph is a multiple of another.

        Returns:
            [batch, frames * hop], limited to ``audio_limit``.
        """
        return self.filter(self.conv_pre(mel), self.fourier.transform(source.flatten(1)[:, None]))

    def inference(
        self, speech_feat: Tensor, cache_source: Tensor | None = None, *, noise: SourceNoise | None = None
    ) -> tuple[Tensor, Tensor]:
        """Waveform of a mel.

        Args:
            speech_feat: [batch, in_channels, frames].
            cache_source: [batch, 1, n <= frames * hop], the excitation returned by an earlier call for the frames that
                this call repeats; it replaces the first n samples so that chunks join without a click.
            noise: of the excitation; drawn from the global generator of torch if None.

        Returns:
            waveform [batch, frames * hop] and the excitation used [batch, 1, frames * hop].
        """
        source = splice_source(cache_source, self.excitation(self.f0_predictor(speech_feat), noise))
        return self(speech_feat, source), source

    def excitation(self, f0: Tensor, noise: SourceNoise | None = None) -> Tensor:
        """Excitation [batch, 1, frames * hop] of a pitch curve [batch, frames] in Hz."""
        source, _ = self.m_source(f0, self.m_source.draw_noise(f0) if noise is None else noise)
        return source

    def filter(self, x: Tensor, spectrum: Tensor) -> Tensor:
        """Waveform of the features of the first layer [batch, width, frames] and the spectrum of the excitation."""
        last = len(self.ups) - 1
        for stage, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, self.lrelu_slope))
            if stage == last:
                x = F.pad(x, (1, 0), mode="reflect")
            x = x + self.source_resblocks[stage](self.source_downs[stage](spectrum))
            first_block = stage * self.blocks_per_stage
            blocks = self.resblocks[first_block : first_block + self.blocks_per_stage]
            x = sum(block(x) for block in blocks) / self.blocks_per_stage
        return self._waveform(self.conv_post(F.leaky_relu(x, _FINAL_SLOPE)))

    def remove_weight_norm(self) -> None:
        """Replace weight-normed weights by their values, in place; state-dict names change.

        For speech synthesis; no action uses it yet.
        """
        fix_parametrized_weights(self)

    def _build_filter(
        self, layers: LayerSet, base_channels: int, rates: Sequence[int], kernel_sizes: Sequence[int]
    ) -> None:
        widths = [base_channels // 2**stage for stage in range(len(rates) + 1)]
        strides = [prod(rates[stage + 1 :]) for stage in range(len(rates))]
        spectrum_channels = 2 * self.fourier.bins
        self.conv_pre = layers.first(self.in_channels, base_channels)
        self.ups = nn.ModuleList(map(layers.up, widths[:-1], widths[1:], kernel_sizes, rates))
        self.source_downs = nn.ModuleList(map(layers.down, repeat(spectrum_channels), widths[1:], strides))
        self.conv_post = layers.last(widths[-1], spectrum_channels)

    def _waveform(self, x: Tensor) -> Tensor:
        log_magnitude, phase = x.split(self.fourier.bins, dim=1)
        magnitude = torch.exp(log_magnitude).clamp(max=_MAX_MAGNITUDE)
        # As in the original implementation: the phase is the sine of the network output.
        phase = torch.sin(phase)
        spectrum = torch.cat([magnitude * torch.cos(phase), magnitude * torch.sin(phase)], dim=1)
        return self.fourier.inverse(spectrum).clamp(-self.audio_limit, self.audio_limit)


def splice_source(earlier: Tensor | None, source: Tensor) -> Tensor:
    """``source`` [batch, 1, samples] with its beginning replaced by ``earlier`` [batch, 1, n], if there is any."""
    return source if earlier is None else torch.cat([earlier, source[:, :, earlier.shape[2] :]], dim=2)
