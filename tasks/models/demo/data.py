"""Synthetic speech for training the demo: each token has a pitch and a resonance, each speaker a timbre.

Nothing is stored: a seed gives the same utterances on any machine.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

PITCHES = 4
RESONANCES = 4
VOCABULARY = PITCHES * RESONANCES
MEL = 80
SPEAKERS = 4
SPEAKER_WIDTH = 192
FRAMES_PER_TOKEN = 2
MIN_TOKENS, MAX_TOKENS = 16, 32  # 0.6 to 1.3 s
NOISE = 0.1


def batches(*, count: int, batch_size: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Training batches for the flow of CosyVoice; another seed gives other utterances of the same tokens and speakers.

    Yields:
        speech_token int64 (B, T), speech_token_len int32 (B,), speech_feat fp32 (B, 2T, 80) between about -3 and 7,
        speech_feat_len int32 (B,), embedding fp32 (B, 192). Padding is 0.
    """
    generator = torch.Generator().manual_seed(seed)
    timbres = _timbres()
    for _ in range(count):
        yield _batch(batch_size, timbres, generator)


def _batch(size: int, timbres: tuple[Tensor, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    lengths = torch.randint(MIN_TOKENS, MAX_TOKENS + 1, (size,), generator=generator)
    longest = int(lengths.max())
    tokens = torch.randint(VOCABULARY, (size, longest), generator=generator)
    speakers = torch.randint(SPEAKERS, (size,), generator=generator)
    embeddings, colours = timbres
    mel = token_spectra(tokens) + colours[speakers].unsqueeze(1)
    mel = mel + NOISE * torch.randn(mel.shape, generator=generator)
    valid = torch.arange(longest) < lengths.unsqueeze(1)
    frames = valid.repeat_interleave(FRAMES_PER_TOKEN, dim=1)
    return {
        "speech_token": tokens * valid,
        "speech_token_len": lengths.int(),
        "speech_feat": mel * frames.unsqueeze(2),
        "speech_feat_len": (lengths * FRAMES_PER_TOKEN).int(),
        "embedding": embeddings[speakers],
    }


def token_spectra(tokens: Tensor) -> Tensor:
    """Tokens (B, T) -> spectra (B, 2T, 80): harmonics of a pitch under a resonance, gliding from token to token."""
    bands = torch.arange(MEL) / MEL
    pitch = 4.0 + 6.0 * (tokens % PITCHES / PITCHES).unsqueeze(2)  # harmonics across the bands
    resonance = (tokens // PITCHES / RESONANCES).unsqueeze(2)
    harmonics = torch.cos(2 * math.pi * pitch * bands)
    envelope = torch.exp(-((bands - resonance) ** 2) / 0.05)
    spectra = (4.0 * envelope * (1.0 + harmonics) - 2.0).transpose(1, 2)
    return F.interpolate(spectra, scale_factor=FRAMES_PER_TOKEN, mode="linear").transpose(1, 2)


def _timbres() -> tuple[Tensor, Tensor]:
    """Speaker embeddings (SPEAKERS, 192) and the slow ripple over the bands (SPEAKERS, 80) of each speaker."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(SPEAKERS, SPEAKER_WIDTH, generator=generator)
    phase, rate = torch.rand(2, SPEAKERS, 1, generator=generator)
    ripple = torch.sin(2 * math.pi * (phase + (0.5 + rate) * torch.arange(MEL) / MEL))
    return embeddings, ripple
