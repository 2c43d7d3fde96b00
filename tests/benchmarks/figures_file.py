"""figures.json: every measurement by name, with its rows and what it was measured on."""

import json
from pathlib import Path
from typing import Any

from tasks.plain_data import write_atomically

FILE = Path(__file__).with_name("figures.json")
Figures = dict[str, dict[str, Any]]


def read(file: Path = FILE) -> Figures:
    figures: Figures = json.loads(file.read_text(encoding="utf-8"))
    return figures


def put(name: str, result: dict[str, Any], file: Path = FILE) -> None:
    """Replace one measurement and leave the others."""
    figures = (read(file) if file.exists() else {}) | {name: result}
    write_atomically(file, json.dumps(figures, indent=1, sort_keys=True) + "\n")
