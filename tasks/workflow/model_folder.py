"""Finds out which model a folder contains and which of its files is the model's YAML: by classes, not names alone."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from tasks.errors import ConfigError
from tasks.settings import compose, remembered
from tasks.settings.conf_folder import CONF, group_options
from tasks.settings.schema import Config
from tasks.user_files import MAX_YAML_BYTES, UTF_16, require_listing, require_readable

CLASS = re.compile(r"^[^#\n]*?!new:([\w.]+)", re.MULTILINE)
MOST_FILES = 1000  # looked at in a folder that has many YAML files, such as sidecars of checkpoints
NAMED_AT_MOST = 3
FOLDER_SETTINGS = ("model.dir", "model.config")


class Found(NamedTuple):
    """The model in a folder, as a value of the setting `model`, and the name of its YAML."""

    model: str
    yaml: str


def load_settings(words: Sequence[str], *, workdir: Path) -> list[Config]:
    """As `compose.load`; where a folder is given without `model=`, its files tell the model.

    Raises:
        ConfigError: as compose.load; the folder's model is unknown or ambiguous.
        UserError: the folder, or a YAML in it that may tell the model, cannot be read.
    """
    keys = {word.partition("=")[0] for word in words}
    found: dict[str | None, Found] = {}
    if "model.dir" in keys and "model" not in keys:
        folder_words = [word for word in words if word.partition("=")[0] in FOLDER_SETTINGS]
        found = _find_all(compose.load(folder_words, workdir=workdir), yaml_given="model.config" in keys)
        words = [*words, f"model={next(iter(found.values())).model}"]
    configs = compose.load(words, workdir=workdir)
    if "model.config" not in keys:
        for config in configs:
            folder = config.model.dir
            config.model.config = found[folder].yaml if folder in found else _yaml_of(config)
    return configs


def models_in(folder: Path) -> list[str]:
    """The known models that the YAML files of a folder describe, in the order of their names."""
    return _models(_described(_yaml_files(folder)))


def without_yaml(path: Path) -> str:
    """The problem with a folder that lacks this YAML: another file may be it, or the folder another model's."""
    described, known = _described(_yaml_files(path.parent)), known_models()
    wanted = {model for model, declared in known.items() if declared["config"] == path.name} or set(known)
    own = [name for name, models in described.items() if wanted & set(models)]
    foreign = [Found(model, name) for name, models in described.items() for model in models]
    where = f"model.dir={path.parent}: has no {path.name}"
    if own or (described and not foreign):
        names = (own or list(described))[:NAMED_AT_MOST]
        return f"{where}; there is {', '.join(names)}: set {' or '.join(f'model.config={name}' for name in names)}"
    if foreign:
        model, name = foreign[0]
        more = "" if name in _usual_names() else f" model.config={name}"
        return f"{where}; {name} describes {model}: set model={model}{more}"
    return f"{where} and no other YAML; give the folder that contains it"


@cache
def known_models() -> dict[str, Mapping[str, Any]]:
    """The declarations under conf/ of models that a folder's YAML can tell, by the value of the setting `model`."""
    known: dict[str, Mapping[str, Any]] = remembered.from_conf("known models", _known_models)
    return known


def _known_models() -> dict[str, Mapping[str, Any]]:
    import yaml

    texts = {name: (CONF / "model" / f"{name}.yaml").read_text(encoding="utf-8") for name in group_options("model")}
    declared = {name: yaml.safe_load(text) for name, text in texts.items()}
    return {
        name: {key: declaration[key] for key in ("config", "classes")}
        for name, declaration in declared.items()
        if "classes" in declaration
    }


def _usual_names() -> set[str]:
    return {declared["config"] for declared in known_models().values()}


def _yaml_of(config: Config) -> str:
    """The name of a model's YAML in its folder: the usual one, or the only known name whose classes are this model's.

    The first CosyVoice 2, for example, was published with a cosyvoice.yaml.
    """
    usual, folder = config.model.config, Path(config.model.dir or "")
    if not config.model.dir or (folder / usual).exists():
        return usual
    candidates = [folder / name for name in sorted(_usual_names())]
    fitting = [path.name for path in candidates if _names_any(path, config.model.classes)]
    return fitting[0] if len(fitting) == 1 else usual


def _find_all(folders: Sequence[Config], *, yaml_given: bool) -> dict[str | None, Found]:
    """What is in each of these folders.

    Raises:
        ConfigError: a folder's model is unknown or ambiguous, or they differ.
    """
    found = {
        one.model.dir: _find(Path(one.model.dir or ""), one.model.config if yaml_given else None) for one in folders
    }
    models = sorted({each.model for each in found.values()})
    if len(models) > 1:
        raise ConfigError([f"model.dir: these folders contain {', '.join(models)}; give them one by one"])
    return found


def _find(folder: Path, name: str | None) -> Found:
    """The model that the YAML of this name or, without one, any YAML of the folder describes."""
    require_listing(folder)
    if not folder.is_dir():
        raise ConfigError([f"model.dir={folder}: no such folder"])
    described = _described([folder / name] if name else _yaml_files(folder))
    models = _models(described)
    if len(models) != 1:
        for file in described:
            require_readable(folder / file)
        raise _unclear(folder, described, models)
    files = [file for file, fitting in described.items() if fitting]
    usual = known_models()[models[0]]["config"]
    if usual in files or len(files) == 1:
        return Found(models[0], usual if usual in files else files[0])
    choices = " or ".join(f"model.config={file}" for file in files[:NAMED_AT_MOST])
    raise ConfigError([f"model.dir={folder}: {len(files)} YAML files describe {models[0]}; set {choices}"])


def _unclear(folder: Path, described: Mapping[str, Sequence[str]], models: Sequence[str]) -> ConfigError:
    where = f"model.dir={folder}"
    if not described:
        return ConfigError([f"{where}: has no YAML; give the folder that contains the model's"])
    if models:
        shown = ", ".join(f"{file} describes {' and '.join(fitting)}" for file, fitting in described.items() if fitting)
        return ConfigError([f"{where}: {shown}; set {' or '.join(f'model={model}' for model in models)}"])
    files = ", ".join(list(described)[:NAMED_AT_MOST])
    choices = ", ".join(known_models())
    return ConfigError([f"{where}: no class in {files} identifies the model; set model=NAME, one of {choices}"])


def _models(described: Mapping[str, Sequence[str]]) -> list[str]:
    return sorted({model for models in described.values() for model in models})


def _described(files: Sequence[Path]) -> dict[str, list[str]]:
    """File name -> the known models of which it names a class."""
    known = known_models().items()
    return {path.name: [model for model, declared in known if _names_any(path, declared["classes"])] for path in files}


def _names_any(path: Path, classes: Sequence[str]) -> bool:
    """Whether a YAML file names one of these classes; it may be broken otherwise."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_YAML_BYTES:
            return False
        content = path.read_bytes()
        text = content.decode("utf-16" if content.startswith(UTF_16) else "utf-8", errors="replace")
        return not set(CLASS.findall(text)).isdisjoint(classes)
    except OSError:
        return False


def _yaml_files(folder: Path) -> list[Path]:
    try:
        visible = (path for path in folder.iterdir() if not path.name.startswith("."))  # others are an editor's
        named = (path for path in visible if path.suffix in {".yaml", ".yml"} and path.is_file())
        return sorted(islice(named, MOST_FILES))
    except OSError:
        return []
