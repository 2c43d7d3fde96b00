"""The two sides of a comparison as commands: this checkout, and one of CosyVoice with a Python that can run it."""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Of both sides. Threads that spin while they wait, as they do by default, cost as much CPU time as the machine is busy;
# this project turns that off by itself, a user of the published scripts would have to.
ENVIRONMENT = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
MODELS = {"cosyvoice": "CosyVoice 1", "cosyvoice2": "CosyVoice 2", "cosyvoice3": "CosyVoice 3"}
Command = list[str]


def environment() -> dict[str, str]:
    """That of a measured command; PYTHONPATH, so that an installed copy of this project is not measured instead."""
    return os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)}


def ours(*words: object) -> Command:
    return [sys.executable, "-m", "doit", "-f", str(ROOT / "dodo.py"), *map(str, words)]


@dataclass(frozen=True)
class Published:
    """A checkout with its third_party/Matcha-TTS."""

    checkout: Path
    python: Path

    def command(self, script: str, folder: Path, output: Path) -> Command:
        runner = Path(__file__).with_name("published.py")
        return list(map(str, (self.python, runner, self.checkout, script, folder, output)))

    def words(self) -> list[str]:
        """The options by which another benchmark is told of this checkout."""
        return ["--published", str(self.checkout), "--published-python", str(self.python)]


def only_parts(parts: Sequence[str], folder: Path, scratch: Path) -> Path:
    """A model folder in ``scratch`` that has the YAML and some of the weights of another."""
    part_folder = scratch / "only-parts"
    part_folder.mkdir()
    for file in (*folder.glob("*.yaml"), *(folder / f"{part}.pt" for part in parts)):
        (part_folder / file.name).symlink_to(file)
    return part_folder


def add_published(parser: ArgumentParser) -> None:
    parser.add_argument("--published", type=Path, metavar="CHECKOUT", help="CosyVoice, with third_party/Matcha-TTS")
    parser.add_argument("--published-python", type=Path, metavar="PYTHON", help="has what the checkout needs")


def published(options: Namespace, parser: ArgumentParser) -> Published | None:
    if options.published is None:
        return None
    if not (options.published / "third_party" / "Matcha-TTS" / "matcha").is_dir():
        parser.error(f"--published: {options.published} has no third_party/Matcha-TTS/matcha. Check out its submodule.")
    if options.published_python is None:
        parser.error("--published needs --published-python")
    if not options.published_python.is_file():
        parser.error(f"--published-python: there is no {options.published_python}")
    return Published(options.published.resolve(), options.published_python.absolute())
