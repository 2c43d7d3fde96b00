"""Error metrics of an artifact's output with respect to the reference, and whether they are within limits."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

DIGITS = 6  # significant digits in reports


@dataclass(frozen=True)
class Metrics:
    """One output of one case compared with the reference.

    Attributes:
        max_abs: largest |a - b|.
        max_rel: largest |a - b| / |b| over elements whose |b| exceeds 1 % of the peak; elsewhere it means nothing.
        peak_error: max_abs over the reference's peak, max |b|.
        snr_db: 10 log10(sum b^2 / sum (a - b)^2); inf when equal.
        cosine: cosine of the angle between a and b as vectors.
        outside: share of elements with |a - b| > atol + rtol |b|.
        finite: no NaN and no Inf on either side.
        worst: index, value and reference of the element furthest beyond its tolerance, or the first not finite.
    """

    max_abs: float
    max_rel: float
    peak_error: float
    snr_db: float
    cosine: float
    outside: float
    finite: bool
    worst: dict[str, Any]

    def to_plain(self) -> dict[str, Any]:
        """JSON-plain: short numbers, and null for what is not finite."""
        return {key: short(value) for key, value in asdict(self).items()}

    def failures(self, limits: Mapping[str, float]) -> list[str]:
        """The limits that are exceeded, one line each; NaN and Inf never pass."""
        if not self.finite:
            return ["NaN or Inf"]
        rules = [
            ("outside", self.outside, self.outside <= limits["max_outside"], limits["max_outside"]),
            ("peak_error", self.peak_error, self.peak_error <= limits["max_peak_error"], limits["max_peak_error"]),
            ("snr_db", self.snr_db, self.snr_db >= limits["min_snr_db"], limits["min_snr_db"]),
            ("cosine", self.cosine, self.cosine >= limits["min_cosine"], limits["min_cosine"]),
        ]
        return [f"{name} {value:.{DIGITS}g}, limit {limit:g}" for name, value, holds, limit in rules if not holds]


def metrics(found: Tensor, reference: Tensor, *, rtol: float, atol: float) -> Metrics:
    """Compare two tensors of one shape in float64; integers and booleans compare as numbers."""
    a, b = found.detach().cpu().double(), reference.detach().cpu().double()
    error, size = (a - b).abs(), b.abs()
    finite = bool(a.isfinite().all() and b.isfinite().all())
    peak, margin = _max(size), error - (atol + rtol * size)
    considerable = size > 0.01 * peak
    return Metrics(
        max_abs=_max(error),
        max_rel=_max(error[considerable] / size[considerable]),
        peak_error=_max(error) / peak if peak else _max(error),
        snr_db=_snr_db(error, b),
        cosine=_cosine(a, b),
        outside=(margin > 0).double().mean().item() if margin.numel() else 0.0,
        finite=finite,
        worst=_worst(a, b, margin if finite else -(a + b).isfinite().double()),
    )


def _max(values: Tensor) -> float:
    return values.max().item() if values.numel() else 0.0


def _snr_db(error: Tensor, reference: Tensor) -> float:
    noise, signal = error.square().sum().item(), reference.square().sum().item()
    if noise == 0:
        return math.inf
    ratio = signal / noise  # 0 where the noise is infinite
    return 10 * math.log10(ratio) if ratio != 0 else -math.inf


def _cosine(a: Tensor, b: Tensor) -> float:
    norms = (a.norm() * b.norm()).item()
    return (a.flatten() @ b.flatten()).item() / norms if norms else float(torch.equal(a, b))


def _worst(a: Tensor, b: Tensor, excess: Tensor) -> dict[str, Any]:
    if not excess.numel():
        return {}
    index = tuple(int(i) for i in torch.unravel_index(excess.argmax(), excess.shape))
    return {"index": list(index), "value": a[index].item(), "reference": b[index].item()}


def short(value: Any) -> Any:
    """A value as JSON holds it: few digits, text for what is not finite."""
    if isinstance(value, dict):
        return {key: short(item) for key, item in value.items()}
    if isinstance(value, float) and not isinstance(value, bool):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)
    return value
