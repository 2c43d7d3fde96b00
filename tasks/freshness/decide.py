"""Is a step fresh, and if not, why: its receipt held against the files, settings, code and libraries of now."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from tasks.freshness.digests import Digests
from tasks.freshness.receipt import Ingredients, Receipt, changes
from tasks.pipeline.step import Step

# Words for people and the message between processes: these never reach the bytes of an artifact.
NOT_SHAPING = {"tasks.errors", "tasks.job", "tasks.progress"}

SOURCE_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Decision:
    """Whether a step must run; `reasons` is empty exactly when it need not."""

    step: Step
    ingredients: Ingredients
    reasons: tuple[str, ...]

    @property
    def fresh(self) -> bool:
        return not self.reasons


def decide(step: Step, digests: Digests) -> Decision:
    """Compare a step with its receipt. All its inputs must exist."""
    now = ingredients(step, digests)
    receipt = Receipt.read(step.receipt)
    if receipt is None:
        return Decision(step, now, (_without_receipt(step),))
    reasons = (*changes(receipt.ingredients, now), *damage(receipt, step.receipt.parent, digests))
    return Decision(step, now, reasons)


def ingredients(step: Step, digests: Digests) -> Ingredients:
    """What would go into the key of `step` if it ran now."""
    return Ingredients(
        action=step.action,
        params=json.loads(json.dumps(step.params)),  # as it will be read back from a receipt
        inputs=input_digests(step, digests),
        code=code_digests(step.code, digests),
        libraries={name: library_version(name) for name in step.libraries},
    )


def input_digests(step: Step, digests: Digests) -> dict[str, str]:
    """SHA-256 of each input by its role."""
    return {role: digests.of_file(path) for role, path in step.inputs.items()}


def damage(receipt: Receipt, folder: Path, digests: Digests) -> list[str]:
    """What is wrong with the outputs that a receipt vouches for, in words."""
    return [
        problem
        for name, claimed in receipt.outputs.items()
        if (problem := _damage_of(folder / name, claimed["size"], claimed["sha256"], digests))
    ]


def code_digests(modules: Iterable[str], digests: Digests, *, root: Path = SOURCE_ROOT) -> dict[str, str]:
    """Digests of the given project modules and of every project module they import, directly or not."""
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in NOT_SHAPING:
            continue
        path = _source_file(module, root)
        if module not in found and path is not None:
            found[module], imports = digests.of_source(path)
            waiting += imports
    return found


@cache
def library_version(name: str) -> str:
    """Version of an installed distribution, or "not installed"."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _source_file(module: str, root: Path) -> Path | None:
    """The module's file; None for what is not a module of this project (a function named in an import, say)."""
    stem = root.joinpath(*module.split("."))
    candidates = (stem.with_suffix(".py"), stem / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _without_receipt(step: Step) -> str:
    if any(path.exists() for path in step.outputs.values()):
        return "no receipt: nothing tells what this file was made from"
    folder = step.receipt.parent
    others = sorted(path.name for path in folder.glob(step.elsewhere)) if step.elsewhere else []
    return f"not built for this machine yet; there is {', '.join(others)}" if others else "not built yet"


def _damage_of(path: Path, size: int, digest: str, digests: Digests) -> str:
    if not path.is_file():
        return f"missing: {path.name}"
    if path.stat().st_size != size:
        return f"damaged: {path.name} has {path.stat().st_size:,} bytes, its receipt says {size:,}"
    if digests.of_file(path) != digest:
        return f"edited: {path.name} is not what its receipt says"
    return ""
