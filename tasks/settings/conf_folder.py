"""Where this project and its folder conf/ are, and which choices conf/ has."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IS_CHECKOUT = (ROOT / "dodo.py").is_file()
CONF = ROOT / "conf" if IS_CHECKOUT else ROOT / "tasks" / "conf"  # where a wheel has it


def group_options(group: str) -> list[str]:
    """The choices of a config group, for example the known models."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))
