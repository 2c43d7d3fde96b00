"""Settings of one doit command: composed by Hydra, strictly, with every problem reported at once, one line each."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tasks.errors import ConfigError, did_you_mean, reason
from tasks.settings import schema, validation
from tasks.settings.overrides import expand

ROOT = Path(__file__).resolve().parents[2]
IS_CHECKOUT = (ROOT / "dodo.py").is_file()
CONF = ROOT / "conf" if IS_CHECKOUT else ROOT / "tasks" / "conf"  # where a wheel has it


def load(words: Sequence[str], *, workdir: Path) -> list[schema.Config]:
    """One checked configuration for each combination of the sweeps in `words`.

    Args:
        words: Hydra overrides as typed.
        workdir: folder that relative paths in the settings start from (where the command was typed).

    Raises:
        ConfigError: with one line for each thing that is wrong, over all combinations.
    """
    OmegaConf.register_new_resolver("project", lambda path: str(ROOT / path), replace=True)
    ConfigStore.instance().store(name="schema", node=schema.Config)
    configs: list[schema.Config] = []
    combinations, ungrammatical = expand(words)
    problems = dict.fromkeys(ungrammatical)  # an ordered set: sweeps repeat the same problem
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for overrides in combinations:
            found, config = _load_one(overrides)
            problems.update(dict.fromkeys(found))
            if config and not found:
                configs.append(_with_absolute_paths(config, workdir))
    if problems:
        raise ConfigError(list(problems))
    return configs


def group_options(group: str) -> list[str]:
    """The choices of a config group, for example the known models."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def as_yaml(config: schema.Config) -> str:
    """Every setting with its value."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _load_one(overrides: list[str]) -> tuple[list[str], schema.Config | None]:
    if ignored := {word: why for word in overrides if (why := _without_effect(_key(word)))}:
        rest, _ = _load_one([word for word in overrides if word not in ignored])
        return [*(f"{word}: {reason}" for word, reason in ignored.items()), *rest], None
    try:
        composed = compose("config", overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        bad = _problems_one_by_one(overrides)
        if not bad:  # each word is fine alone: the composition itself fails
            return [_reason(error)], None
        good = [word for word in overrides if word not in bad]
        rest, _ = _load_one(good)
        return [*bad.values(), *rest], None
    if unknown := _unknown_keys(composed):
        rest, _ = _load_one([word for word in overrides if _key(word) not in unknown])
        return [*unknown.values(), *rest], None
    try:
        config = cast(schema.Config, OmegaConf.to_object(composed))
    except OmegaConfBaseException as error:
        return [_reason(error)], None
    return validation.problems(config), config


def _without_effect(key: str) -> str:
    """Why setting a key that Hydra knows would have no effect; empty where it has one."""
    if key == "precision.name":
        return "set by the group; set precision=NAME"
    return "Hydra's own settings have no effect here" if key.partition(".")[0] == "hydra" else ""


def _problems_one_by_one(overrides: list[str]) -> dict[str, str]:
    """Compose each override with nothing but the group choices around it, to find every one that fails."""
    groups = [word for word in overrides if word.partition("=")[0] in _groups()]
    bad = {word: _group_problem(word) for word in groups if _group_problem(word)}
    sound = [word for word in groups if word not in bad]
    try:
        known = list(_keys(compose("config", overrides=sound)))
    except (HydraException, OmegaConfBaseException):
        return bad  # the groups themselves do not go together; no other word is to blame
    for word in overrides:
        if word not in groups:
            try:
                compose("config", overrides=[*sound, word])
            except (HydraException, OmegaConfBaseException) as error:
                bad[word] = _explained(word, error, known)
    return bad


def _groups() -> list[str]:
    return [path.name for path in CONF.iterdir() if path.is_dir()]


def _group_problem(word: str) -> str:
    group, _, choice = word.partition("=")
    options = group_options(group)
    if choice in options:
        return ""
    return f"{word}: no such {group}; choose from {', '.join(options)}{did_you_mean(choice, options)}"


def _explained(word: str, error: Exception, known: list[str]) -> str:
    key = _key(word)
    if key in known:
        return f"{word}: {_reason(error)}"
    return f"{word}: no such setting{did_you_mean(key, known)}"


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, node):
        path = f"{prefix}{key}"
        yield path
        value = node._get_node(key)
        if isinstance(value, DictConfig) and not value._is_missing() and not value._is_none():
            yield from _keys(value, f"{path}.")


def _unknown_keys(node: DictConfig) -> dict[str, str]:
    """Keys that `+key=value` slipped past the structured schema, each with the problem in words."""
    unknown = {}
    for path in _keys(node):
        parent = OmegaConf.select(node, path.rpartition(".")[0]) if "." in path else node
        type_ = OmegaConf.get_type(parent)
        if is_dataclass(type_) and path.rpartition(".")[2] not in {f.name for f in fields(type_)}:
            known = [key for key in _keys(node) if key != path]
            unknown[path] = f"{path}: no such setting{did_you_mean(path, known)}"
    return unknown


def _reason(error: BaseException) -> str:
    """The first lines along the chain of causes: Hydra often keeps the real reason in `__cause__`."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip() and not line.startswith("In '")]
    key = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")), "")
    if not lines:
        return reason(error)
    return f"{key}: {lines[0]}" if key and error.__cause__ is None else lines[0]


def _with_absolute_paths(config: schema.Config, workdir: Path) -> schema.Config:
    in_checkout = IS_CHECKOUT and config.artifacts == schema.Config.artifacts
    base = ROOT if in_checkout else workdir
    config.artifacts = str(base / Path(config.artifacts).expanduser())
    if config.tensorrt.timing_cache is not None:
        config.tensorrt.timing_cache = str(workdir / Path(config.tensorrt.timing_cache).expanduser())
    model: Any = config.model
    if model.dir is not None:
        model.dir = str(workdir / Path(model.dir).expanduser())
    model.checkpoints = {
        part: folder and str(workdir / Path(folder).expanduser()) for part, folder in model.checkpoints.items()
    }
    for component in model.components.values():
        component.recordings = [str(workdir / Path(file).expanduser()) for file in component.recordings]
    return config
