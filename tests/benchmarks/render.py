"""Writes FIGURES.md and the table in README from figures.json; no figure in them is written by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.plain_data import write_atomically
from tests.benchmarks import figures_file
from tests.benchmarks.catalogue import MEASUREMENTS, SECTIONS
from tests.benchmarks.figures_file import Figures
from tests.benchmarks.results import OURS, PUBLISHED, Row
from tests.benchmarks.sides import ROOT
from tests.benchmarks.table import table

FIGURES, README = Path(__file__).with_name("FIGURES.md"), ROOT / "README.md"
BEGIN, END = "<!-- from figures.json: python -m tests.benchmarks.figures -->\n", "<!-- end -->\n"
INTRODUCTION = """# Figures

Written from `figures.json` by `python -m tests.benchmarks.figures`; do not edit. Sizes are those of the original
release, weights are random. Cells have medians: wall time, CPU time of all processes (user and system), and the peak of
the memory of all processes, shared pages counted once. Loads are averages of a minute, before and after; above the
number of cores, CPU time says more than wall time. On both sides two threads, which do not spin while they wait.
"""


def write() -> None:
    figures = figures_file.read()
    write_atomically(FIGURES, document(figures))
    write_atomically(README, with_summary(README.read_text(encoding="utf-8"), figures))


def document(figures: Figures) -> str:
    sections = [INTRODUCTION]
    for section, heading in SECTIONS.items():
        found = {name: figures[name] for name in _names(section) if name in figures}
        if found:
            rows = [row for result in found.values() for row in _rows(result)]
            sections.append("\n\n".join([f"## {heading.title}", heading.note, table(rows), _measured_on(found)]) + "\n")
    return "\n".join(sections)


def _names(section: str) -> list[str]:
    return [measurement.name for measurement in MEASUREMENTS if measurement.section == section]


def _rows(result: Mapping[str, Any]) -> list[Row]:
    return [Row.from_plain(row) for row in result["rows"]]


def _measured_on(results: Figures) -> str:
    """One line for each measurement of the section."""
    return "\n".join(f"- `{name}`: {_origin(result)}" for name, result in results.items())


def _origin(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    words = [
        result["date"],
        f"commit {result['commit']}{' with changes' if result['modified'] else ''}",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory'] / 1e9:.0f} GB",
        f"load {result['load'][0]:.1f} to {result['load'][1]:.1f}",
        f"PyTorch {result['versions']['torch']}",
    ]
    if theirs := result.get("published"):
        words.append(f"CosyVoice {theirs['commit']} with Matcha-TTS {theirs['matcha']}")
    return "; ".join(words)


def with_summary(readme: str, figures: Figures) -> str:
    """README with the table between its two marks replaced.

    Raises:
        ValueError: it has no such marks.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README has no lines {BEGIN.strip()!r} and {END.strip()!r}")
    return f"{before}{begin}\n{table(_summary(figures))}\n\n{end}{after}"


def _summary(figures: Figures) -> Sequence[Row]:
    """What both sides do, without variants of a side."""
    return [
        Row(f"{heading.title}: {row.name}", {side: row.sides[side] for side in (PUBLISHED, OURS)})
        for section, heading in SECTIONS.items()
        for name in _names(section)
        for row in _rows(figures.get(name, {"rows": []}))
        if {OURS, PUBLISHED} <= row.sides.keys()
    ]
