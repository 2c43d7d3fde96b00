"""Decides whether a step is fresh, by comparing its receipt with the current files, settings, code and libraries."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from tasks.freshness.code import code_digests
from tasks.freshness.digests import Digests
from tasks.freshness.receipt import Ingredients, Receipt, changes
from tasks.pipeline.step import Step

# Libraries that have several distributions, of which one is installed.
DISTRIBUTIONS = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime")}
NOT_INSTALLED = "not installed"
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Decision:
    """Whether a step must run.

    Attributes:
        reasons: why it must; empty exactly when it need not.
        remarks: of the run that built what is there, see `tasks.child.outcome.Outcome`.
        awaited: inputs of which the digest is not known yet, by role, each with its `stamps`.
    """

    step: Step
    ingredients: Ingredients
    reasons: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    awaited: Mapping[str, list[list[int]]] = field(default_factory=dict)

    @property
    def fresh(self) -> bool:
        return not self.reasons


def decide(step: Step, digests: Digests, *, predicted: Mapping[str, str] = NOTHING) -> Decision:
    """Compare a step with its receipt. All its inputs must exist, but for those of which the digest is `predicted`.

    Raises:
        UserError: the code that the step used is not Python any more.
    """
    receipt = Receipt.read(step.receipt, step.outputs.values())
    now = ingredients(step, digests, modules=receipt.ingredients.code if receipt else (), predicted=predicted)
    if receipt is None:
        return Decision(step, now, (_without_receipt(step),))
    if receipt.step != step.task:  # reports and metadata have the name
        return Decision(step, now, (f"its receipt is that of {receipt.step}",))
    reasons = tuple(staleness(receipt, now, step.receipt.parent, digests))
    return Decision(step, now, reasons, receipt.remarks)


def staleness(receipt: Receipt, now: Ingredients, folder: Path, digests: Digests) -> list[str]:
    """Why outputs in `folder` are not what their step would make now; empty if they are."""
    return [*changes(receipt.ingredients, now), *damage(receipt, folder, digests)]


def ingredients(
    step: Step, digests: Digests, *, modules: Iterable[str], predicted: Mapping[str, str] = NOTHING
) -> Ingredients:
    """What would go into the key of `step` if it ran now and used the same modules as the last time."""
    return Ingredients(
        action=step.action,
        params=json.loads(json.dumps(step.params)),  # as it will be read back from a receipt
        inputs=input_digests(step.inputs, step.records, digests, predicted=predicted),
        libraries={name: library_version(name) for name in step.libraries},
        code=code_digests(modules, digests),
    )


def input_digests(
    inputs: Mapping[str, Path],
    records: Mapping[str, Collection[str]],
    digests: Digests,
    *,
    predicted: Mapping[str, str] = NOTHING,
) -> dict[str, str]:
    """SHA-256 of each input by its role, or of the `records` in it that count."""
    digests.begin(path for role, path in inputs.items() if role not in predicted and not records.get(role))
    return {
        role: predicted[role] if role in predicted else _digest(path, records.get(role, ()), digests)
        for role, path in inputs.items()
    }


def _digest(path: Path, records: Collection[str], digests: Digests) -> str:
    return digests.of_part(path, records) if records else digests.of_file(path)


def damage(receipt: Receipt, folder: Path, digests: Digests) -> list[str]:
    """What is wrong with the outputs that a receipt describes, in words."""
    return [
        problem
        for name, claimed in receipt.outputs.items()
        if (problem := _damage_of(folder / name, claimed["size"], claimed["sha256"], digests))
    ]


@cache
def library_version(name: str) -> str:
    """Version of an installed library, with its distribution where it has several; "not installed" without one."""
    for distribution in DISTRIBUTIONS.get(name, (name,)):
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        return version if distribution == name else f"{version} ({distribution})"
    return NOT_INSTALLED


def _without_receipt(step: Step) -> str:
    if any(path.exists() for path in step.outputs.values()):
        return "no receipt: it is not known what this file was made from"
    folder = step.receipt.parent
    others = sorted(path.name for path in folder.glob(step.elsewhere)) if step.elsewhere else []
    return f"not built for this machine yet; there is {', '.join(others)}" if others else "not built yet"


def _damage_of(path: Path, size: int, digest: str, digests: Digests) -> str:
    if not path.is_file():
        return f"missing: {path.name}"
    if path.stat().st_size != size:
        return f"damaged: {path.name} has {path.stat().st_size:,} bytes, its receipt has {size:,}"
    if digests.of_file(path) != digest:
        return f"edited: {path.name} is not what its receipt describes"
    return ""
