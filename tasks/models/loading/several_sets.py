"""What is said of a file with several sets of weights: which they are, and the command that keeps one of them."""

import re
from collections.abc import Sequence
from pathlib import Path

from tasks.errors import UserError, python_command, shortened_name
from tasks.user_files import weights_format

NAMED_AT_MOST = 10
BESIDE = None  # stands for the tensors beside the mappings, which have no key


def several_mappings(path: Path, keys: Sequence[str], candidates: Sequence[str | None]) -> UserError:
    """Several mappings of tensors, or one and tensors beside; the command keeps the first.

    Args:
        path: of the file.
        keys: of the mappings around them, from the outside in.
        candidates: keys of the mappings, or BESIDE.
    """
    first, content = candidates[0], _expression(path, keys)
    chosen = f"{content}[{first!r}]"
    if first is BESIDE:
        chosen = f"{{n: t for n, t in {content}.items() if isinstance(t, torch.Tensor)}}"
    named = [shortened_name(repr(key)) for key in candidates[:NAMED_AT_MOST] if key is not BESIDE]
    return UserError(
        "contains several sets of weights",
        where=path,
        value=" and ".join([*named, *(["tensors beside"] if BESIDE in candidates else [])]),
        remedy=_command_that_saves(chosen, path, first or "beside"),
    )


def several_prefixes(path: Path, keys: Sequence[str], prefixes: Sequence[str]) -> UserError:
    """Sets whose names differ in their prefix, one of which may be empty; the command keeps the first."""
    first, others = prefixes[0], tuple(prefixes[1:NAMED_AT_MOST])
    kept = f"n.startswith({first!r})" if first else f"not n.startswith({others!r})"
    shown = (shortened_name(repr(prefix)) if prefix else "no prefix" for prefix in prefixes[:NAMED_AT_MOST])
    return UserError(
        "contains several sets of weights, whose names begin differently",
        where=path,
        value=" and ".join(shown),
        remedy=_command_that_saves(
            f"{{n[{len(first)}:]: t for n, t in {_expression(path, keys)}.items() if {kept}}}",
            path,
            first.rstrip(".") or "plain",
        ),
    )


def _expression(path: Path, keys: Sequence[str]) -> str:
    """Python for the mapping that the weights are in."""
    loaded = f"torch.load({str(path)!r}, map_location='cpu')"
    if weights_format(path) == "safetensors":
        loaded = f"__import__('safetensors.torch').torch.load_file({str(path)!r})"
    return loaded + "".join(f"[{key!r}]" for key in keys)


def _command_that_saves(expression: str, path: Path, chosen: str) -> str:
    saved = path.with_name(f"{path.stem}.{re.sub(r'[^A-Za-z0-9._-]+', '-', chosen)[:40]}.pt")
    command = python_command(f"import torch; torch.save({expression}, {str(saved)!r})")
    return f"Save the one that you want to a file and give that, for example: {command}"
