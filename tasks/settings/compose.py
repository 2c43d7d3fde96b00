"""Settings of one doit command: composed by Hydra, strictly, with every problem reported at once, one line each."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tasks.errors import ConfigError, did_you_mean, reason
from tasks.plain_data import plain
from tasks.settings import schema, validation
from tasks.settings.declared_types import type_problems
from tasks.settings.locations import make_absolute
from tasks.settings.overrides import expand

ROOT = Path(__file__).resolve().parents[2]
IS_CHECKOUT = (ROOT / "dodo.py").is_file()
CONF = ROOT / "conf" if IS_CHECKOUT else ROOT / "tasks" / "conf"  # where a wheel has it

Problems = dict[str, str]  # by the word that is to blame, or by themselves
# Hydra and OmegaConf meet some values with errors of Python itself.
UNUSABLE = (
    HydraException, OmegaConfBaseException, ArithmeticError, AssertionError, AttributeError, LookupError,
    RecursionError, TypeError, ValueError,
)  # fmt: skip


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
    combinations, unusable = expand(words)
    problems = {problem: problem for problem in unusable}
    _composed.cache_clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for combination in combinations:  # a word that was a problem in one of them need not be tried in the next
            found, config = _load_one([word for word in combination if word not in problems])
            if config:
                in_checkout = IS_CHECKOUT and config.artifacts == schema.Config.artifacts
                lost = make_absolute(config, workdir=workdir, artifacts=ROOT if in_checkout else workdir)
                problems |= {problem: problem for problem in lost}
                configs.append(config)
            problems |= found
    if problems:
        lines = (problem.replace("\n", "\\n") for problem in problems.values())
        raise ConfigError(list(dict.fromkeys(lines)))
    return configs


def group_options(group: str) -> list[str]:
    """The choices of a config group, for example the known models."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def as_yaml(config: schema.Config) -> str:
    """Every setting with its value."""
    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True, width=math.inf)


def _load_one(overrides: list[str]) -> tuple[Problems, schema.Config | None]:
    if bad := {word: why for word in overrides if (why := _without_effect(word) or _group_problem(word))}:
        return _load_without(bad, overrides)
    try:
        composed = _composed(*overrides)
    except UNUSABLE as error:
        bad = _problems_one_by_one(overrides)
        # where each word is fine alone, the composition itself fails
        return _load_without(bad, overrides) if bad else ({_reason(error): _reason(error)}, None)
    if unknown := _unknown_keys(composed):
        return _load_without({w: unknown[_key(w)] for w in overrides if _key(w) in unknown} or unknown, overrides)
    try:
        config = cast(schema.Config, OmegaConf.to_object(composed))
    except UNUSABLE as error:
        return {_reason(error): _reason(error)}, None
    if mistaken := list(type_problems(config)):
        return {problem: problem for problem in mistaken}, None
    return {problem: problem for problem in validation.problems(config)}, config


@cache
def _composed(*overrides: str) -> DictConfig:
    """Remembered within one `load`: the combinations of a sweep share most of what is composed to explain a problem."""
    return compose("config", overrides=list(overrides))


def _load_without(bad: Problems, overrides: list[str]) -> tuple[Problems, None]:
    """What is wrong with the other words as well."""
    rest = [word for word in overrides if word not in bad]
    return bad | (_load_one(rest)[0] if len(rest) < len(overrides) else {}), None


def _without_effect(word: str) -> str:
    """Why setting a key that Hydra knows would have no effect; empty where it has one."""
    key = _key(word)
    if key == "precision.name":
        return f"{word}: set by the group; set precision=NAME"
    return f"{word}: Hydra's own settings have no effect here" if key.partition(".")[0] == "hydra" else ""


def _problems_one_by_one(overrides: list[str]) -> Problems:
    """Compose each override with nothing but the group choices around it, to find every one that fails."""
    groups = [word for word in overrides if _key(word) in _groups()]
    try:
        known = list(_keys(_composed(*groups)))
    except UNUSABLE:
        return {}  # the groups themselves do not go together; no other word is to blame
    bad = {}
    for word in overrides:
        if word not in groups:
            try:
                _composed(*groups, word)
            except UNUSABLE as error:
                bad[word] = _explained(word, error, known)
    return bad


def _groups() -> list[str]:
    return [path.name for path in CONF.iterdir() if path.is_dir()]


def _group_problem(word: str) -> str:
    group, choice = _key(word), word.partition("=")[2].strip(" '\"")
    if group not in _groups() or choice in group_options(group):
        return ""
    options = group_options(group)
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
