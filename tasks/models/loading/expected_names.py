"""Counts how many of the names that a model expects are in a file, whatever wrappers put before or into them."""

import re
from collections.abc import Iterable, Mapping

from tasks.models.loading.weight_norm import without_weight_norm

# Of submodules that training wraps one by one. A model can have a submodule called `module` itself.
INNER = re.compile(r"(?<=\.)(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
INNER_DDP = re.compile(r"(?<=\.)module\.")


def behind_prefixes(names: Iterable[str], expected: frozenset[str]) -> dict[str, set[str]]:
    """Each prefix behind which expected names are -> which, with weight norm or without."""
    behind: dict[str, set[str]] = {}
    for name in names if expected else ():
        for prefix, rest in _splits(name):
            if (plain := without_weight_norm(rest)) in expected:
                behind.setdefault(prefix, set()).add(plain)
    return behind


def most_expected(names: Iterable[str], expected: frozenset[str]) -> int:
    """How many expected names there are behind one prefix."""
    return max(map(len, behind_prefixes(names, expected).values()), default=0)


def without_inner_ddp(names: Iterable[str], expected: frozenset[str]) -> Mapping[str, str]:
    """Each name -> the name without the `module.` inside, if more of them are then expected; else nothing."""
    plain = {name: INNER_DDP.sub("", name) for name in names}
    unique = len(set(plain.values())) == len(plain)
    better = unique and most_expected(plain.values(), expected) > most_expected(plain, expected)
    return plain if better else {}


def _splits(name: str) -> list[tuple[str, str]]:
    ends = [0, *(match.end() for match in re.finditer(r"\.", name[:1000]))]
    return [(name[:end], name[end:]) for end in ends]
