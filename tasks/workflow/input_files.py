"""Checks the user's folders before anything runs: which files exist, and which checkpoints will be averaged."""

import os.path
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tasks.errors import ConfigError, UserError
from tasks.job import RECORDED
from tasks.pipeline.step import Step
from tasks.settings.schema import Config
from tasks.user_files import MAX_YAML_BYTES, require_usable, unreadable
from tasks.workflow.model_folder import models_in, without_yaml

CONFIG = "config"  # role of a model's YAML
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
    if not folders:
        return {}, {}
    from tasks import checkpoints  # with PyYAML, which the others need not import

    num, val_best = config.average.num, config.average.val_best
    found = {part: checkpoints.survey(folder) for part, folder in folders.items()}
    best = {part: checkpoints.select(every, num=num, val_best=val_best) for part, every in found.items()}
    return (
        {part: [path for one in chosen for path in (one.weights, one.sidecar)] for part, chosen in best.items()},
        {part: [one.why_left_out for one in every if one.diverged] for part, every in found.items()},
    )


def absent(config: Config) -> set[str]:
    """Parts, and further files, that a model folder does not have which has some part's file."""
    model = config.model
    folder = Path(model.dir or "")
    parts = {part for part, file in model.parts.items() if not os.path.lexists(folder / file)}
    named = (file for c in model.components.values() for file in (*c.files.values(), *c.optional_files.values()))
    files = {file for file in named if not os.path.lexists(folder / file)}
    return parts | files if len(parts) < len(model.parts) else set()


def check_read(configs: Sequence[Config]) -> None:
    """A model folder that is given must be read by some model of the command.

    Raises:
        ConfigError: only models that are built in were asked for; names the setting that reads the folder.
    """
    given = {one.model.dir: one.model.name for one in configs if one.model.dir}
    if given and all(Path(one.model.config).is_absolute() for one in configs):
        raise ConfigError([_unread(Path(folder), name) for folder, name in given.items()])


def check_inputs(steps: Sequence[Step]) -> None:
    """Every file that no step makes must be there, and be one that can be opened and read to its end.

    Raises:
        ConfigError: one line for each cause, with the setting that leads to it.
    """
    made = {path for step in steps for path in step.outputs.values()}
    needed = {path: (role, step) for step in reversed(steps) if not step.skip for role, path in step.inputs.items()}
    given = {path: by for path, by in needed.items() if path not in made}
    missing = {path: by for path, by in given.items() if _is_missing(path)}
    folders = [path.parent for path, (role, _) in missing.items() if role == CONFIG]
    beside = {path for path in missing for folder in folders if folder in path.parents and missing[path][0] != CONFIG}
    problems = _missing_files({path: by for path, by in missing.items() if path not in beside})
    problems += [_unusable(path, role) for path, (role, _) in given.items() if path not in missing]
    if any(problems):
        raise ConfigError(list(dict.fromkeys(problem for problem in problems if problem)))


def check_made(steps: Sequence[Step]) -> None:
    """A file at the place of an output must be one that can be opened: its content decides whether it is fresh.

    Raises:
        ConfigError: one line for each file, or folder, that cannot be read.
    """
    problems = [_closed(path) for step in steps if not step.skip for path in step.outputs.values()]
    if any(problems):
        raise ConfigError(list(dict.fromkeys(problem for problem in problems if problem)))


def _closed(path: Path) -> str:
    where = path.parent
    try:
        if stat.S_ISREG(path.stat().st_mode):
            where = path
            path.open("rb").close()
    except PermissionError as error:
        return str(unreadable(where, error)).rstrip(".")
    except OSError:
        return ""  # nothing there
    return ""


def _is_missing(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # it cannot be reached
    return False


def _unusable(path: Path, role: str) -> str:
    try:
        return _problem_with(path, role)
    except PermissionError as error:
        return str(unreadable(path, error)).rstrip(".")
    except UserError as error:
        return str(error).rstrip(".")


def _problem_with(path: Path, role: str) -> str:
    if path.is_dir():
        from tasks.checkpoints import ENGINE_FOLDER, conversion

        if remedy := conversion(path):
            return f"{path}: {ENGINE_FOLDER}. {remedy}"
    if role == CONFIG and path.is_file() and path.stat().st_size > MAX_YAML_BYTES:
        return f"model.dir={path.parent}: {path.name} has more than {MAX_YAML_BYTES} bytes; it is no model YAML"
    require_usable(path)
    return ""


def _unread(folder: Path, model: str) -> str:
    found = " or ".join(f"model={name}" for name in models_in(folder)) or "model=NAME"
    return f"model.dir={folder}: {model} is built in and reads no folder; set {found}"


def _missing_files(missing: Mapping[Path, tuple[str, Step]]) -> list[str]:
    """A line for each cause; the weights and other files that one folder lacks are one."""
    problems: list[str] = []
    lacking: dict[Path, list[tuple[str, Step]]] = {}
    for path, (role, step) in missing.items():
        folder = step.inputs.get(CONFIG, path).parent
        if problem := _cause(path, role, step, folder):
            problems.append(problem)
        else:
            name = str(path.relative_to(folder)) if folder in path.parents else str(path)
            lacking.setdefault(folder, []).append((name, step))
    for folder, files in lacking.items():
        names, (_, step) = ", ".join(sorted(name for name, _ in files)), files[0]
        problems.append(f"model.dir={folder}: has no {names}{f', which {step.task} reads' if len(files) == 1 else ''}")
    return problems


def _cause(path: Path, role: str, step: Step, folder: Path) -> str:
    """Why a file is missing; empty if it is just not in the model's folder."""
    if role.startswith(RECORDED):
        return f"recordings of {step.name.partition('/')[2]}: no such file: {path}"
    if not path.is_absolute():
        return f"model.dir: not given; {step.name.partition('/')[0]} is read from it: set model.dir=DIR"
    if not folder.is_dir():
        return f"model.dir={folder}: no such folder"
    if path.exists():
        return f"model.dir={folder}: {path.name} is not a regular file"
    return without_yaml(path) if role == CONFIG else ""
