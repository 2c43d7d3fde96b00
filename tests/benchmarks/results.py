"""What a benchmark writes and figures.json keeps: rows of samples, by side and quantity, and ratios of their medians.

A benchmark's --json FILE has {"rows": [{"name": ..., "sides": {"ours": {"wall": [SECONDS, ...]}, ...}}]}; figures.json
has such rows by the name of the measurement, with the ratios and with what they were measured on.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS, PUBLISHED = "ours", "published"
# The unit of each quantity; one that is not listed here is refused.
QUANTITIES = {
    "wall": "s",
    "cpu": "s",
    "peak": "B",
    "size": "B",
    "nodes": "",
    "max_abs": "",
    "snr": "dB",
}
Samples = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Row:
    """One thing that was measured: for each side, for each quantity, one sample per round."""

    name: str
    sides: Mapping[str, Samples]

    def __post_init__(self) -> None:
        if not self.sides:
            raise ValueError(f"{self.name}: no sides")
        for side, samples in self.sides.items():
            if unknown := samples.keys() - QUANTITIES:
                raise ValueError(f"{self.name}, {side}: unknown quantities {sorted(unknown)}")
            if wrong := [quantity for quantity, values in samples.items() if not (values and isinstance(values, list))]:
                raise ValueError(f"{self.name}, {side}: no list of samples of {wrong}")

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Row":
        return cls(plain["name"], plain["sides"])

    def median(self, side: str, quantity: str) -> float:
        return statistics.median(self.sides[side][quantity])

    def ratios(self) -> dict[str, dict[str, float]]:
        """This project's medians divided by those of each other side, by the name of that side."""
        others = [side for side in self.sides if side != OURS and OURS in self.sides]
        return {other: self._ratios_to(other) for other in others}

    def _ratios_to(self, other: str) -> dict[str, float]:
        shared = [quantity for quantity in self.sides[OURS] if quantity in self.sides[other]]
        return {quantity: self.median(OURS, quantity) / self.median(other, quantity) for quantity in shared}

    def to_plain(self) -> dict[str, Any]:
        return {"name": self.name, "sides": self.sides, "ratios": self.ratios()}


def write_rows(rows: Sequence[Row], file: Path) -> None:
    file.write_text(json.dumps({"rows": [row.to_plain() for row in rows]}, indent=1) + "\n")


def read_rows(file: Path) -> list[Row]:
    """Raises ValueError if the file has no rows, or others than above."""
    content = json.loads(file.read_text())
    try:
        return [Row.from_plain(row) for row in content["rows"]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file} has no rows of samples: {error!r}") from error
