"""Checks the user's folders before anything runs: which files exist, and which checkpoints will be averaged."""

import os.path
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tasks import checkpoints
from tasks.errors import ConfigError, UserError
from tasks.job import RECORDED
from tasks.pipeline.step import Step
from tasks.settings.compose import CONF
from tasks.settings.schema import Config
from tasks.user_files import require_usable

SAFETENSORS = ".safetensors"


def with_found_parts(config: Config) -> Config:
    """The configuration with `flow.safetensors` in the place of a `flow.pt` that the model folder does not have."""
    folder, parts = Path(config.model.dir or ""), {}
    for part, file in config.model.parts.items():
        other = str(Path(file).with_suffix(SAFETENSORS))
        parts[part] = other if not os.path.lexists(folder / file) and (folder / other).is_file() else file
    return replace(config, model=replace(config.model, parts=parts)) if parts != config.model.parts else config


def checkpoints_to_average(config: Config) -> tuple[dict[str, Sequence[Path]], dict[str, Sequence[str]]]:
    """For each part with a folder of checkpoints: the chosen files of weights with their sidecars, best first.

    Returns:
        They, and for each part the checkpoints that are never chosen, with the reason.

    Raises:
        UserError: from reading the folder or choosing among what is there.
    """
    folders = {part: Path(folder) for part, folder in config.model.checkpoints.items() if folder is not None}
    found = {part: checkpoints.survey(folder) for part, folder in folders.items()}
    left_out: dict[str, Sequence[str]] = {
        part: [one.why_left_out for one in every if one.diverged] for part, every in found.items()
    }
    return {part: _chosen(every, config) for part, every in found.items()}, left_out


def absent(config: Config) -> set[str]:
    """Parts, and further files, that a usable model folder does not have: one with the YAML and some part's file."""
    model = config.model
    folder = Path(model.dir or "")
    parts = {part for part, file in model.parts.items() if not os.path.lexists(folder / file)}
    named = (file for component in model.components.values() for file in component.files.values())
    files = {file for file in named if not os.path.lexists(folder / file)}
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
    """Every file that no step makes must be there, and be one that can be read to its end.

    Raises:
        ConfigError: naming each missing file and the setting that leads to it; each that is no file.
    """
    made = {path for step in steps for path in step.outputs.values()}
    needed = [(path, role, step) for step in steps if not step.skip for role, path in step.inputs.items()]
    given = {path: (role, step) for path, role, step in needed if path not in made}
    problems = [_problem(path, role, step) for path, (role, step) in given.items()]
    if any(problems):
        raise ConfigError(list(dict.fromkeys(problem for problem in problems if problem)))


def _problem(path: Path, role: str, step: Step) -> str:
    if not os.path.lexists(path):
        return _missing(path, role, step)
    try:
        require_usable(path)
    except UserError as error:
        return str(error).rstrip(".")
    return ""


def _chosen(found: Sequence[checkpoints.Checkpoint], config: Config) -> Sequence[Path]:
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
