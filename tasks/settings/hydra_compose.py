"""Composition by Hydra, strictly: for what is wrong with the words, every word that is to blame is found."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from tasks.errors import did_you_mean, reason
from tasks.settings import schema, validation
from tasks.settings.conf_folder import CONF, ROOT, group_options
from tasks.settings.declared_types import type_problems
from tasks.settings.overrides import expand

Problems = dict[str, str]  # by the word that is to blame, or by themselves
# Hydra and OmegaConf meet some values with errors of Python itself.
UNUSABLE = (
    HydraException, OmegaConfBaseException, ArithmeticError, AssertionError, AttributeError, LookupError,
    RecursionError, TypeError, ValueError,
)  # fmt: skip


class Composed(NamedTuple):
    """What some words were composed to.

    Attributes:
        combinations: of the sweeps in the words; for each what is wrong with it, and its configuration if there is one.
        environment: names of the environment variables that were looked up; None where the same words may give
            something else another time (the clock was read), or gave a warning that has to be given again.
    """

    combinations: list[tuple[Problems, schema.Config | None]]
    environment: set[str] | None


def composed(words: Sequence[str]) -> Composed:
    """One checked configuration for each combination of the sweeps in `words`; its paths are as they were typed."""
    ConfigStore.instance().store(name="schema", node=schema.Config)
    combinations, unusable = expand(words)
    problems = {problem: problem for problem in unusable}
    made: list[tuple[Problems, schema.Config | None]] = [(dict(problems), None)] if problems else []
    _composed.cache_clear()
    with initialize_config_dir(str(CONF), version_base="1.3"), _observed_resolvers() as outside:
        for combination in combinations:  # a word that was a problem in one of them need not be tried in the next
            made.append(_load_one([word for word in combination if word not in problems]))
            problems |= made[-1][0]
    return Composed(made, None if outside.changing else outside.environment)


class _Outside:
    """What a composition has asked for beside the words and conf/."""

    def __init__(self) -> None:
        self.environment: set[str] = set()
        self.changing = False
        self._times: dict[str, str] = {}

    def env(self, *arguments: Any) -> str | None:
        if arguments and isinstance(arguments[0], str):
            self.environment.add(arguments[0])
        return oc.env(*arguments)

    def now(self, pattern: str, *, _node_: Node) -> str:
        """Hydra's settings of itself, which end with the composition, have it as well."""
        self.changing |= not str(_node_._get_full_key(None)).startswith("hydra.")
        return self._times.setdefault(pattern, datetime.now().strftime(pattern))


@contextmanager
def _observed_resolvers() -> Iterator[_Outside]:
    """Hydra's resolvers of the environment and the clock, observed; the others depend on the configuration alone."""
    outside = _Outside()
    OmegaConf.register_new_resolver("project", lambda path: str(ROOT / path), replace=True)
    OmegaConf.register_new_resolver("oc.env", outside.env, replace=True)
    OmegaConf.register_new_resolver("now", outside.now, replace=True)
    with warnings.catch_warnings(record=True) as caught:
        yield outside
    outside.changing |= bool(caught)
    for each in caught:
        warnings.showwarning(each.message, each.category, each.filename, each.lineno)


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
    for key in node:
        path = f"{prefix}{key!s}"
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
