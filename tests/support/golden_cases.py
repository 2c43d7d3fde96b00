"""The recorded reference tensors of the original models, one case per name.

Identical tensors are stored once, so a case may name a tensor recorded for an earlier case.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class Case:
    """One recorded call: arguments and results by name, keyword flags, random draws in call order."""

    name: str
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    flags: dict[str, Any]
    draws: list[Any]


def golden_case(family: str, name: str) -> Case:
    """The case ``name`` of the folder tests/golden/``family`` with its tensors."""
    record = _cases(family)[name]
    return Case(
        name=name,
        inputs=_resolved(family, record.get("inputs", {})),
        outputs=_resolved(family, record.get("outputs", {})),
        flags=record.get("flags", {}),
        draws=[_draw(family, draw) for draw in record.get("random_draws_in_call_order", [])],
    )


def golden_names(family: str, prefix: str = "") -> list[str]:
    """Names of the recorded cases that start with ``prefix``, in recorded order."""
    return [name for name in _cases(family) if name.startswith(prefix)]


def golden_tensor(family: str, name: str) -> torch.Tensor:
    """One tensor by its stored name; a copy, because a model may write into its arguments."""
    return _tensors(family)[name].clone()


@cache
def golden_record(family: str) -> dict[str, Any]:
    """The content of golden.json."""
    return json.loads((GOLDEN / family / "golden.json").read_text(encoding="utf-8"))


@cache
def _cases(family: str) -> dict[str, dict[str, Any]]:
    return {case["name"]: case for case in golden_record(family)["cases"]}


@cache
def _tensors(family: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / family / "golden.safetensors")


def _resolved(family: str, names: dict[str, str]) -> dict[str, torch.Tensor]:
    return {argument: golden_tensor(family, tensor) for argument, tensor in names.items()}


def _draw(family: str, draw: dict[str, Any]) -> Any:
    return golden_tensor(family, draw["tensor"]) if "tensor" in draw else draw["value"]
