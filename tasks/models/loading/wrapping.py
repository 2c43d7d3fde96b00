"""Finds the weights in what training tools save: a state dict in others beside bookkeeping, names behind prefixes."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tasks.errors import UserError, listed, shortened_name
from tasks.models.loading.expected_names import INNER, behind_prefixes, most_expected, without_inner_ddp
from tasks.models.loading.several_sets import BESIDE, several_mappings, several_prefixes
from tasks.models.loading.weight_norm import without_weight_norm

TRAINING_STATE = ("epoch", "step")  # what CosyVoice's training adds to a state dict
PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.", "ema_model.")  # of wrapper classes
NOT_WEIGHTS = re.compile(
    r"optim|sched|scaler|rng|loops|callback|discriminator|^(args|opt|config?|h(yper_?)?params?\w*|m[psr]d)$",
    re.IGNORECASE,
)
RANDOM_STATE = re.compile(r"rng|random", re.IGNORECASE)
AVERAGED = re.compile(r"(^|_)(ema|swa|shadow)(_|$)", re.IGNORECASE)
REFERENCE = re.compile(r"(^|[._])(ref|reference|teacher|target|frozen)([._]|$)", re.IGNORECASE)  # trained against
ADAPTER = re.compile(r"\.(lora_\w+|base_layer|modules_to_save)\.|(^|\.)lora_\w+$")
MAX_DEPTH = 5


@dataclass
class Weights:
    """The weights in a file, and how they were found.

    Attributes:
        path: of the file.
        expected: names that they should have, without weight norm.
        tensors: by name.
        keys: of the mappings around them, from the outside in.
        notes: what was taken off or left out, as clauses; empty for a plain state dict.
    """

    path: Path
    expected: frozenset[str] = frozenset()
    tensors: dict[str, Tensor] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def unwrap(content: Any, path: Path, expected: Collection[str] = ()) -> Weights:
    """The weights in a file's content.

    One mapping of tensors among bookkeeping is read, however deep it lies; so are names that all have the prefix of a
    wrapper, and those that are the `expected` ones behind one prefix. Of several sets of weights, the only one that
    has the expected names is read; otherwise they are ambiguous, the weights beside their moving average too.

    Raises:
        UserError: there are no weights, or several sets; adapters were not merged.
    """
    weights = Weights(path, frozenset(without_weight_norm(name) for name in expected))
    _find_state_dict(content, weights)
    _remove_prefixes(weights)
    _require_one_set(weights)
    if not expected:
        _require_no_reference(weights)
    _require_merged(weights)
    _fit(weights)
    return weights


def count_tensors(content: Any) -> int:
    """How many tensors there are in a file's content, in all of its sets of weights."""
    return sum(map(len, _sets(content))) if isinstance(content, Mapping) else 0


def _find_state_dict(content: Any, found: Weights) -> None:
    if not isinstance(content, Mapping):
        raise UserError(
            "not a dict of tensors", where=found.path, value=type(content).__name__, remedy="Save a state_dict"
        )
    inner: dict[str, Any] = {key: value for key, value in content.items() if _is_nested_weights(key, value)}
    own = _own_tensors(content)
    if inner and not any(_is_weight(name, tensor) for name, tensor in own.items()):
        own = {}
    if not own and not inner:
        raise _without_weights(content, found.path)
    if len(inner) + bool(own) > 1:
        own, inner = _one_of(own, inner, found)
    left_out = [str(key) for key in content if key not in own and key not in inner and key not in TRAINING_STATE]
    if left_out:
        found.notes.append(f"left out: {listed(left_out)}")
    found.tensors = own
    for key, value in inner.items():  # one at most
        found.notes.append(f"read from {shortened_name(repr(key))}")
        found.keys.append(key)
        _find_state_dict(value, found)


def _own_tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    own = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    return {key: value for key, value in own.items() if key not in TRAINING_STATE}


def _one_of(own: dict[str, Tensor], inner: dict[str, Any], found: Weights) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Of the tensors beside and the mappings of tensors, the only set with the expected names; the rest empty."""
    candidates: dict[str | None, Any] = dict([*inner.items(), *([(BESIDE, own)] if own else [])])
    having = {key: _expected_in(value, found.expected) for key, value in candidates.items()}
    chosen = [key for key in candidates if having[key] and 2 * having[key] >= len(found.expected)]
    averages = {key for key in inner if AVERAGED.search(key) and 2 * count_tensors(inner[key]) >= len(found.expected)}
    if len(chosen) != 1 or not averages <= set(chosen):
        raise several_mappings(found.path, found.keys, sorted(candidates, key=lambda key: -having[key]))
    if chosen == [BESIDE]:
        named = {name for name in own if without_weight_norm(name) in found.expected}
        return {name: tensor for name, tensor in own.items() if name in named or _is_weight(name, tensor)}, {}
    return {}, {key: value for key, value in inner.items() if key in chosen}


def _expected_in(content: Mapping[Any, Any], expected: frozenset[str]) -> int:
    """How many expected names the best set of weights inside has."""
    most = 0
    for tensors in _sets(content):
        names = [INNER.sub("", name) for name in tensors]
        plain = without_inner_ddp(names, expected) or {name: name for name in names}
        most = max(most, most_expected(plain.values(), expected))
    return most


def _sets(content: Mapping[Any, Any]) -> list[dict[str, Tensor]]:
    """The tensors of a mapping and of each mapping inside; each once, as a file can contain a mapping in itself."""
    waiting, seen, sets = [(content, 0)], {id(content)}, []
    while waiting:
        mapping, depth = waiting.pop()
        sets.append(_own_tensors(mapping))
        for value in mapping.values():
            if isinstance(value, Mapping) and id(value) not in seen and depth < MAX_DEPTH:
                seen.add(id(value))
                waiting.append((value, depth + 1))
    return sets


def _is_nested_weights(key: object, value: object, depth: int = 0) -> bool:
    if not isinstance(key, str) or not isinstance(value, Mapping) or NOT_WEIGHTS.search(key) or depth > MAX_DEPTH:
        return False
    return any(
        (isinstance(inner, Tensor) and _is_weight(name, inner)) or _is_nested_weights(name, inner, depth + 1)
        for name, inner in value.items()
    )


def _is_weight(name: object, value: Tensor) -> bool:
    """Whether a tensor beside nested weights is one itself: not a counter, not a random generator's state."""
    return isinstance(name, str) and value.dim() > 0 and not RANDOM_STATE.search(name)


def _remove_prefixes(found: Weights) -> None:
    while prefix := _common_prefix(found.tensors):
        _keep_behind(prefix, found)
    plain = {INNER.sub("", name): tensor for name, tensor in found.tensors.items()}
    if plain.keys() != found.tensors.keys() and len(plain) == len(found.tensors):
        found.tensors = plain
        found.notes.append("names without those of wrapped submodules")


def _keep_behind(prefix: str, found: Weights) -> None:
    others = [name for name in found.tensors if not name.startswith(prefix)]
    found.tensors = {n.removeprefix(prefix): t for n, t in found.tensors.items() if n.startswith(prefix)}
    found.notes.append(f"names without {shortened_name(repr(prefix))}")
    if others:
        found.notes.append(f"left out: {listed(others)}")


def _common_prefix(tensors: Mapping[str, Tensor]) -> str:
    """A wrapper's prefix on the names of all tensors but the counters that such wrappers keep."""
    names = [name for name, tensor in tensors.items() if "." in name or tensor.dim() > 0]
    return next((prefix for prefix in PREFIXES if names and all(name.startswith(prefix) for name in names)), "")


def _require_one_set(found: Weights) -> None:
    groups = dict.fromkeys(f"{name.partition('.')[0]}." for name in found.tensors if "." in name)
    averaged = [group for group in groups if AVERAGED.search(group.rstrip("."))]
    if averaged and len(groups) > 1:
        others = [group for group in groups if group not in averaged]
        shown = [averaged[0], *(others or averaged[1:])]
        having = {g: most_expected((n for n in found.tensors if n.startswith(g)), found.expected) for g in shown}
        raise several_prefixes(found.path, found.keys, sorted(shown, key=lambda group: -having[group])[:2])


def _require_no_reference(found: Weights) -> None:
    """Where no names are expected: a model beside the one that it is trained against, with the same names."""
    groups: dict[str, set[str]] = {}
    for name in found.tensors:
        group, dot, rest = name.partition(".")
        groups.setdefault(group + dot, set()).add(rest)
    for reference, names in groups.items():
        if not REFERENCE.search(reference.rstrip(".")) or 4 * len(names) < len(found.tensors):
            continue  # single layers may be called so, and have the same names as others
        beside = {name for name in found.tensors if not name.startswith(reference)}
        trained = [group for group in groups if group != reference and groups[group] == names]
        if trained or beside == names:
            raise several_prefixes(found.path, found.keys, [*trained[:1], reference] if trained else ["", reference])


def _require_merged(found: Weights) -> None:
    adapters = [name for name in found.tensors if ADAPTER.search(name)]
    if adapters:
        raise UserError(
            "has adapters (LoRA) that were not merged into the weights",
            where=found.path,
            value=f"{len(adapters)} names such as {', '.join(shortened_name(name) for name in adapters[:2])}",
            remedy="Merge them where the model was trained, model.merge_and_unload() of peft, and save the state_dict "
            "of the result",
        )


def _fit(found: Weights) -> None:
    """Take off the one prefix behind which at least half of the expected names are, with weight norm or without."""
    if plain := without_inner_ddp(found.tensors, found.expected):
        found.tensors = {plain[name]: tensor for name, tensor in found.tensors.items()}
        found.notes.append("names without the 'module.' of wrapped submodules")
    behind = behind_prefixes(found.tensors, found.expected)
    most = max(map(len, behind.values()), default=0)
    best = [prefix for prefix, names in behind.items() if len(names) == most]
    if 2 * most < len(found.expected) or best == [""] or not best:
        return
    if len(best) > 1:
        best.sort(key=lambda prefix: bool(REFERENCE.search(prefix)))
        raise several_prefixes(found.path, found.keys, best)
    _keep_behind(best[0], found)


def _without_weights(content: Mapping[Any, Any], path: Path) -> UserError:
    kinds = [f"{shortened_name(repr(key))}: {type(value).__name__}" for key, value in content.items()]
    value = listed(kinds) or "an empty dict"
    return UserError("contains no weights", where=path, value=value, remedy="Save a state_dict of tensors")
