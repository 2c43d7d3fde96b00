"""Rows of samples as a Markdown table: medians of each side, and ratios of this project's to the others'."""

from collections.abc import Callable, Mapping, Sequence

from tests.benchmarks.results import OURS, PUBLISHED, QUANTITIES, Row

LABELS = {
    "wall": "wall",
    "cpu": "CPU",
    "peak": "memory",
    "size": "size",
    "nodes": "nodes",
    "max_abs": "max abs",
    "snr": "SNR",
}


def table(rows: Sequence[Row]) -> str:
    sides = _in_order({side for row in rows for side in row.sides})
    return _by_quantity(rows, sides[0]) if len(sides) == 1 else _by_side(rows, sides)


def _in_order(sides: set[str]) -> list[str]:
    """The published side first and its variants after it; this project's last."""
    return sorted(sides, key=lambda side: (side == OURS, not side.startswith(PUBLISHED), side))


def _by_side(rows: Sequence[Row], sides: Sequence[str]) -> str:
    others = [side for side in sides if side != OURS]
    lines = []
    for row in rows:
        ratios = row.ratios()
        measured = [_cell(row, side) if side in row.sides else "" for side in sides]
        lines.append([row.name, *measured, *(_ratio_cell(ratios.get(other, {})) for other in others)])
    return markdown(["", *sides, *(f"{OURS} / {other}" for other in others)], lines)


def _cell(row: Row, side: str) -> str:
    return ", ".join(_value(row, side, quantity) for quantity in QUANTITIES if quantity in row.sides[side])


def _ratio_cell(ratios: Mapping[str, float]) -> str:
    return ", ".join(f"{LABELS[quantity]} {ratios[quantity]:.2f}" for quantity in QUANTITIES if quantity in ratios)


def _by_quantity(rows: Sequence[Row], side: str) -> str:
    found = {quantity for row in rows for quantity in row.sides[side]}
    quantities = [quantity for quantity in QUANTITIES if quantity in found]
    lines = [
        [row.name, *(_value(row, side, quantity) if quantity in row.sides[side] else "" for quantity in quantities)]
        for row in rows
    ]
    return markdown(["", *(LABELS[quantity] for quantity in quantities)], lines)


def _value(row: Row, side: str, quantity: str) -> str:
    return FORMATS[QUANTITIES[quantity]](row.median(side, quantity))


def _seconds(value: float) -> str:
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def _bytes(value: float) -> str:
    return f"{value / 1e6:.0f} MB" if value < 1e9 else f"{value / 1e9:.2f} GB"


FORMATS: dict[str, Callable[[float], str]] = {
    "s": _seconds,
    "B": _bytes,
    "dB": "{:.0f} dB".format,
    "": "{:.4g}".format,
}


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))
