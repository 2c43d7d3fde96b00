"""Checks the user's folders before anything runs: which files exist, and which checkpoints will be averaged."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tasks import checkpoints
from tasks.errors import ConfigError
from tasks.job import RECORDED
from tasks.pipeline.step import Step
from tasks.settings.compose import CONF
from tasks.settings.schema import Config


def checkpoints_to_average(config: Config) -> dict[str, Sequence[Path]]:
    """For each part with a folder of checkpoints: the chosen `.pt` files with their sidecars, best first.

    Raises:
        UserError: from reading the folder or choosing among what is there.
    """
    return {
        part: _chosen(Path(folder), config) for part, folder in config.model.checkpoints.items() if folder is not None
    }


def absent(config: Config) -> set[str]:
    """Parts, and further files, that a usable model folder does not have: one with the YAML and some part's file."""
    model = config.model
    folder = Path(model.dir or "")
    parts = {part for part, file in model.parts.items() if not (folder / file).is_file()}
    files = {file for c in model.components.values() for file in c.files.values() if not (folder / file).is_file()}
    usable = (folder / model.config).is_file() and len(parts) < len(model.parts)
    return parts | files if usable else set()


def check_read(configs: Sequence[Config]) -> None:
    """A model folder that is given must be read by some model of the command.

    Raises:
        ConfigError: only models that are built in were asked for; names the setting that reads the folder.
    """
    given = {one.model.dir: one.model.name for one in configs if one.model.dir}
    if given and all(Path(one.model.config).is_absolute() for one in configs):
        raise ConfigError([_unread(Path(folder), name) for folder, name in given.items()])


def check_inputs(steps: Sequence[Step]) -> None:
    """Every file that no step makes must be there.

    Raises:
        ConfigError: naming each missing file and the setting that leads to it.
    """
    made = {path for step in steps for path in step.outputs.values()}
    needed = [(path, role, step) for step in steps if not step.skip for role, path in step.inputs.items()]
    problems = [_missing(path, role, step) for path, role, step in needed if path not in made and not path.is_file()]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def _chosen(folder: Path, config: Config) -> Sequence[Path]:
    found = checkpoints.survey(folder)
    best = checkpoints.select(found, num=config.average.num, val_best=config.average.val_best)
    return [path for checkpoint in best for path in (checkpoint.weights, checkpoint.sidecar)]


def _unread(folder: Path, model: str) -> str:
    return f"model.dir={folder}: {model} is built in and reads no folder; set model={_family_of(folder) or 'NAME'}"


def _missing(path: Path, role: str, step: Step) -> str:
    if role.startswith(RECORDED):
        return f"recordings of {step.name.partition('/')[2]}: no such file: {path}"
    if not path.is_absolute():
        return f"model.dir: not given; {step.name.partition('/')[0]} is read from it: set model.dir=DIR"
    folder = step.inputs.get("config", path).parent
    if not folder.is_dir():
        return f"model.dir={folder}: no such folder"
    other = _family_of(path.parent)
    if other and path.suffix == ".yaml":
        return f"model.dir={path.parent}: has no {path.name}; it is a folder for model={other}"
    return f"model.dir={path.parent}: has no {path.name}, which {step.task} reads"


def _family_of(folder: Path) -> str:
    """The known model whose YAML lies in `folder`, or an empty string."""
    for path in sorted((CONF / "model").glob("*.yaml")):
        declared: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        if (folder / declared.get("config", "")).is_file():
            return path.stem
    return ""
