"""Error metrics of an artifact's output with respect to the reference, and whether they are within limits."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

DIGITS = 6  # significant digits in reports
PEAKS = 2.0  # how much further out the worst of all elements may lie, beside the noise itself


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
        spread: over how many elements the error energy is spread, (sum e^2)^2 / sum e^4 of the errors e.
        finite: no NaN and no Inf on either side.
        worst: index, value and reference of the element furthest beyond its tolerance, or the first not finite.
    """

    max_abs: float
    max_rel: float
    peak_error: float
    snr_db: float
    cosine: float
    outside: float
    spread: float
    finite: bool
    worst: dict[str, Any]

    def to_plain(self) -> dict[str, Any]:
        """JSON-plain: short numbers, and null for what is not finite."""
        return {key: short(value) for key, value in asdict(self).items()}

    def failures(self, limits: Mapping[str, float], floor: "Floor | None" = None) -> list[str]:
        """The limits that are exceeded, one line each; NaN and Inf never pass."""
        if not self.finite:
            return ["NaN or Inf"]
        excused = floor if floor and floor.excuses else Floor(math.inf, math.inf, 0.0, 0.0, False)
        peak_error = max(limits["max_peak_error"], excused.peak_error)
        snr_db = min(limits["min_snr_db"], excused.snr_db)
        cosine = min(limits["min_cosine"], 1 - 10 ** (-excused.snr_db / 10))
        rules = [
            ("outside", self.outside, self.outside <= limits["max_outside"], f"{limits['max_outside']:g}"),
            ("peak_error", self.peak_error, self.peak_error <= peak_error, f"{peak_error:g}"),
            ("snr_db", self.snr_db, self.snr_db >= snr_db, f"{snr_db:g}"),
            ("cosine", self.cosine, self.cosine >= cosine, f"{cosine:g}"),
        ]
        if floor and self.snr_db >= snr_db:
            limit = f"{floor.snr_db:.{DIGITS}g}, which follows from what the format itself costs here"
            rules.append(("snr_db", self.snr_db, self.snr_db >= floor.snr_db, limit))
        return [f"{name} {value:.{DIGITS}g}, limit {limit}" for name, value, holds, limit in rules if not holds]


@dataclass(frozen=True)
class Floor:
    """The limits of one output of one case that follow from what its format itself costs there.

    Attributes:
        cost_db: SNR of the original itself in the format.
        snr_db: least SNR of an artifact.
        max_abs, peak_error: largest errors of single elements.
        excuses: whether what is within these limits passes although it is beyond the absolute ones.
    """

    cost_db: float
    snr_db: float
    max_abs: float
    peak_error: float
    excuses: bool

    @classmethod
    def of(
        cls, cost: Metrics, dtype: torch.dtype, *, max_noise: float, excuses: bool = True, by_chance: bool = True
    ) -> "Floor":
        """From the errors of the original module in a format.

        Energies of few errors differ by chance: the logarithm of a sum of k squares has a standard deviation of
        sqrt(2 / k), that of the ratio of two such sums sqrt(4 / k); four of these are allowed. n independent Gaussian
        errors have a spread of n / 3; k is an eighth of such an n, because the bands of one frame hardly differ alone.
        Where a few positions have most of the error, as in a network whose attention is saturated, k is smaller.

        Args:
            max_noise: largest error energy over that of `cost`, and at least that of one rounding of the output.
            by_chance: whether to allow for chance; not where `cost` is already the worst of many runs.
        """
        one_rounding = -20 * math.log10(torch.finfo(dtype).eps / 2 / math.sqrt(3))
        chance = math.exp(4 * math.sqrt(4 / max(3 * cost.spread / 8, 4))) if by_chance else 1.0
        noise = max_noise * chance
        peaks = PEAKS * math.sqrt(noise)
        snr_db = min(cost.snr_db, one_rounding) - 10 * math.log10(noise)
        return cls(cost.snr_db, snr_db, peaks * cost.max_abs, peaks * cost.peak_error, excuses)


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
        spread=_spread(error),
        finite=finite,
        worst=_worst(a, b, margin if finite else -(a + b).isfinite().double()),
    )


def _max(values: Tensor) -> float:
    return values.max().item() if values.numel() else 0.0


def _spread(error: Tensor) -> float:
    energy = error.square()
    concentration = energy.square().sum().item()
    return energy.sum().item() ** 2 / concentration if concentration else float(error.numel())


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
