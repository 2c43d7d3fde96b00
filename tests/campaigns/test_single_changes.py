"""One random change at a time: what is called fresh after it is what a run that builds everything makes.

Changed are settings, numbers and operators in the code, values in the model's YAML and elements of weights.
VOXKILN_SEED gives other changes.
"""

import json
import os
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.freshness.code import HOUSE_KEEPING
from tasks.freshness.receipt import Receipt
from tasks.job import sha256
from tests.conftest import restore
from tests.support.mutations import changed_code, changed_number, changed_setting, changed_weight
from tests.support.project import Project

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("VOXKILN_SEED", "0"))
CHANGES, PARTS = 200, 8  # parts, so that several workers share them
TIMINGS = {"milliseconds", "seconds"}

Made = dict[str, tuple[dict[str, str], dict[str, Any]]]  # step -> digests of its inputs, content of its outputs


def content_of(path: Path) -> Any:
    """What must be the same when a file is made again: all of it, but for the times in a report."""
    return without_timings(json.loads(path.read_text())) if path.suffix == ".json" else sha256(path)


def without_timings(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_timings(item) for key, item in value.items() if key not in TIMINGS}
    return [without_timings(item) for item in value] if isinstance(value, list) else value


def made(project: Project) -> Made:
    receipts = {path: Receipt.read(path) for path in project.artifacts.rglob("*.receipt.json")}
    return {
        receipt.step: (receipt.ingredients.inputs, {name: content_of(path.parent / name) for name in receipt.outputs})
        for path, receipt in receipts.items()
        if receipt
    }


def changeable(project: Project) -> list[Path]:
    """The modules that can shape an artifact."""
    used = set[str]().union(
        *(
            receipt.ingredients.code
            for path in project.artifacts.rglob("*.receipt.json")
            if (receipt := Receipt.read(path))
        )
    )
    files = {path: path.relative_to(project.root).with_suffix("") for path in project.root.glob("tasks/**/*.py")}
    names = {path: ".".join(parts.parts).removesuffix(".__init__") for path, parts in files.items()}
    return sorted(path for path, name in names.items() if name in used or not name.startswith(HOUSE_KEEPING))


def change(project: Project, dice: random.Random) -> tuple[str, tuple[str, ...]]:
    """Make one change; its description, and the words that it needs on the command line."""
    kind = dice.choice(["setting", "code", "code", "code", "yaml", "weights"])
    if kind == "setting":
        word = changed_setting(project.settings, dice)
        return word, (word,)
    if kind == "code":
        path = dice.choice(changeable(project))
        return f"{path.relative_to(project.root)}: {changed_code(path, dice)}", ()
    if kind == "yaml":
        return changed_number(project.root / "model/cosyvoice2.yaml", dice), ()
    path = dice.choice([*sorted(project.root.glob("checkpoints/*.pt")), project.root / "model/flow.pt"])
    return f"{path.name}: {changed_weight(path, dice)}", ()


def wrongly_fresh(project: Project, words: tuple[str, ...]) -> set[str] | None:
    """Steps that are called fresh although a run that builds everything makes something else, or fails in them.

    None where the change is refused.
    """
    before = made(project)
    if project.doit("why", *words).code:
        return None
    stale = project.stale(*words)
    run = project.doit("-a", "--continue", *words)
    after, stale_then = made(project), project.stale(*words)
    failed = run.steps("FAIL") - stale - stale_then
    other = {
        step
        for step, (inputs, outputs) in before.items()
        if step in after and step not in stale and after[step][0] == inputs and after[step][1] != outputs
    }
    return failed | other


@pytest.mark.parametrize("part", range(PARTS))
def test_what_is_called_fresh_is_what_would_be_built(built_once: tuple[Project, Path], part: int) -> None:
    project, copy = built_once
    dice, counts = random.Random(f"{SEED} {part}"), Counter[str]()
    wrong = []
    for _ in range(CHANGES // PARTS):
        what, words = change(project, dice)
        found = wrongly_fresh(project, words)
        counts["refused" if found is None else "wrong fresh" if found else "right"] += 1
        wrong += [f"{what}: {', '.join(sorted(found))}"] if found else []
        restore(project.root, copy)
    print(f"\nsingle changes, seed {SEED}, part {part}: {dict(counts)}", *wrong, sep="\n")
    assert not wrong


def test_an_ingredient_that_a_receipt_lacks_is_noticed(built: Project) -> None:
    path = next(built.artifacts.rglob("*.onnx.receipt.json"))
    receipt = Receipt.read(path)
    assert receipt
    code = dict(receipt.ingredients.code)
    del code["tasks.models.cosyvoice.estimator.time_embedding"]
    replace(receipt, ingredients=replace(receipt.ingredients, code=code)).write(path)
    built.edit("tasks/models/cosyvoice/estimator/time_embedding.py", "SCALE = 1000.0", "SCALE = 1001.0")
    assert wrongly_fresh(built, ()) == {receipt.step}
