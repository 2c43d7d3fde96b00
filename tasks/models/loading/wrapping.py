"""Finds the weights in what training tools save: a state dict in others beside bookkeeping, names behind prefixes."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tasks.errors import UserError, python_command, shortened_name
from tasks.models.loading.weight_norm import without_weight_norm
from tasks.user_files import weights_format

TRAINING_STATE = ("epoch", "step")  # what CosyVoice's training adds to a state dict
PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.", "ema_model.")  # of wrapper classes
INNER = re.compile(r"(?<=\.)(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")  # of wrapped submodules
NOT_WEIGHTS = re.compile(
    r"optim|sched|scaler|rng|loops|callback|discriminator|^(args|config?|h(yper_?)?params?\w*|m[psr]d)$", re.IGNORECASE
)
RANDOM_STATE = re.compile(r"rng|random", re.IGNORECASE)
AVERAGED = re.compile(r"(^|_)(ema|swa|shadow)(_|$)", re.IGNORECASE)
ADAPTER = re.compile(r"\.(lora_\w+|base_layer|modules_to_save)\.|(^|\.)lora_\w+$")
MAX_DEPTH = 5
NAMED_AT_MOST = 10


@dataclass
class Weights:
    """The weights in a file, and how they were found.

    Attributes:
        tensors: by name.
        keys: of the mappings around them, from the outside in.
        notes: what was taken off or left out, as clauses; empty for a plain state dict.
    """

    path: Path
    tensors: dict[str, Tensor] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def unwrap(content: Any, path: Path, expected: Collection[str] = ()) -> Weights:
    """The weights in a file's content.

    One mapping of tensors among bookkeeping is read, however deep it lies; so are names that all have the prefix of a
    wrapper, and those that are the `expected` ones behind one prefix. Several sets of weights are ambiguous, the
    weights beside their moving average too.

    Raises:
        UserError: there are no weights, or several sets; adapters were not merged.
    """
    weights = Weights(path)
    _find_state_dict(content, weights)
    _remove_prefixes(weights)
    _require_one_set(weights)
    _require_merged(weights)
    _fit(weights, set(expected))
    return weights


def _find_state_dict(content: Any, found: Weights) -> None:
    if not isinstance(content, Mapping):
        raise UserError(
            "not a dict of tensors", where=found.path, value=type(content).__name__, remedy="Save a state_dict"
        )
    inner = {key: value for key, value in content.items() if _is_nested_weights(key, value)}
    own = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    own = {key: value for key, value in own.items() if key not in TRAINING_STATE}
    own = {key: value for key, value in own.items() if not inner or _is_weight(key, value)}
    if not own and not inner:
        raise _without_weights(content, found.path)
    if len(inner) + bool(own) > 1:
        raise _ambiguous(found, list(inner), beside=bool(own))
    left_out = [str(key) for key in content if key not in own and key not in inner and key not in TRAINING_STATE]
    if left_out:
        found.notes.append(f"left out: {_listed(left_out)}")
    found.tensors = own
    for key, value in inner.items():  # one at most
        found.notes.append(f"read from {shortened_name(repr(key))}")
        found.keys.append(key)
        _find_state_dict(value, found)


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
        found.notes.append(f"left out: {_listed(others)}")


def _common_prefix(tensors: Mapping[str, Tensor]) -> str:
    """A wrapper's prefix on the names of all tensors but the counters that such wrappers keep."""
    names = [name for name, tensor in tensors.items() if "." in name or tensor.dim() > 0]
    return next((prefix for prefix in PREFIXES if names and all(name.startswith(prefix) for name in names)), "")


def _require_one_set(found: Weights) -> None:
    groups = dict.fromkeys(name.partition(".")[0] for name in found.tensors if "." in name)
    averaged = [group for group in groups if AVERAGED.search(group)]
    if averaged and len(groups) > 1:
        others = [group for group in groups if group not in averaged]
        raise _several_prefixes(found, [f"{averaged[0]}.", f"{(others or averaged[1:])[0]}."])


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


def _fit(found: Weights, expected: set[str]) -> None:
    """Take off the one prefix behind which at least half of the expected names are, with weight norm or without."""
    expected = {without_weight_norm(name) for name in expected}
    behind: dict[str, set[str]] = {}
    for name in found.tensors if expected else ():
        for prefix, rest in _splits(name):
            if (plain := without_weight_norm(rest)) in expected:
                behind.setdefault(prefix, set()).add(plain)
    most = max(map(len, behind.values()), default=0)
    best = sorted((prefix for prefix, names in behind.items() if len(names) == most), key=len, reverse=True)
    if 2 * most < len(expected) or best == [""] or not best:
        return
    if len(best) > 1:
        raise _several_prefixes(found, best)
    _keep_behind(best[0], found)


def _splits(name: str) -> list[tuple[str, str]]:
    ends = [0, *(match.end() for match in re.finditer(r"\.", name[:1000]))]
    return [(name[:end], name[end:]) for end in ends]


def _without_weights(content: Mapping[Any, Any], path: Path) -> UserError:
    kinds = [
        f"{shortened_name(repr(key))}: {type(value).__name__}" for key, value in list(content.items())[:NAMED_AT_MOST]
    ]
    value = ", ".join(kinds) or "an empty dict"
    return UserError("contains no weights", where=path, value=value, remedy="Save a state_dict of tensors")


def _ambiguous(found: Weights, inner: list[str], *, beside: bool) -> UserError:
    shown = [*(shortened_name(repr(key)) for key in inner[:NAMED_AT_MOST]), *(["tensors beside"] if beside else [])]
    return UserError(
        "contains several sets of weights",
        where=found.path,
        value=" and ".join(shown),
        remedy=_command_that_saves(f"{_expression(found)}[{inner[0]!r}]", found.path, inner[0]),
    )


def _several_prefixes(found: Weights, prefixes: list[str]) -> UserError:
    prefix, shown = prefixes[0], (shortened_name(repr(prefix)) for prefix in prefixes[:NAMED_AT_MOST])
    chosen = f"{{n[{len(prefix)}:]: t for n, t in {_expression(found)}.items() if n.startswith({prefix!r})}}"
    return UserError(
        "contains several sets of weights, whose names begin differently",
        where=found.path,
        value=" and ".join(shown),
        remedy=_command_that_saves(chosen, found.path, prefix.rstrip(".")),
    )


def _expression(found: Weights) -> str:
    """Python for the mapping that the weights are in."""
    loaded = f"torch.load({str(found.path)!r}, map_location='cpu')"
    if weights_format(found.path) == "safetensors":
        loaded = f"__import__('safetensors.torch').torch.load_file({str(found.path)!r})"
    return loaded + "".join(f"[{key!r}]" for key in found.keys)


def _command_that_saves(expression: str, path: Path, chosen: str) -> str:
    """The remedy, for example for the first of the sets."""
    saved = path.with_name(f"{path.stem}.{re.sub(r'[^A-Za-z0-9._-]+', '-', chosen)[:40]}.pt")
    command = python_command(f"import torch; torch.save({expression}, {str(saved)!r})")
    return f"Save the one that you want to a file and give that, for example: {command}"


def _listed(names: list[str]) -> str:
    shown = ", ".join(shortened_name(name) for name in names[:NAMED_AT_MOST])
    return shown + (f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else "")
