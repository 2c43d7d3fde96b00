"""Sound files never fail: other dimensions than those on which the limits were chosen, and weights that have grown.

Settings are the defaults, lengths above all: what padding costs grows with them.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tasks.actions.export_onnx import action as export_onnx
from tasks.actions.export_torchscript import action as export_torchscript
from tasks.actions.verify import compare
from tasks.errors import UserError
from tasks.pipeline.step import Step
from tests.support.dimensions import DIMENSIONS
from tests.support.folders import random_folder
from tests.support.steps import all_steps_of, job_of

pytestmark = pytest.mark.slow

PARTS = {"cosyvoice1": ("llm", "flow", "hift"), "cosyvoice2": ("flow", "hift"), "cosyvoice3": ("flow", "hift")}
OVERFLOW = "NaN or Inf"  # then the file is not sound
GROWTHS = (4.0, 8.0, 16.0)  # of the weights
EXPORTS = {"export_jit": export_torchscript.run, "export_onnx": export_onnx.run}


def folders() -> Iterator[tuple[str, str]]:
    for family, sets in DIMENSIONS.items():
        yield from ((family, f"dimensions {number}") for number in range(len(sets)))
        yield from ((family, f"times {growth:g}") for growth in GROWTHS)


def folder_of(family: str, which: str, root: Path) -> Path:
    """A model folder with random weights."""
    kind, number = which.rsplit(" ", maxsplit=1)
    changes = DIMENSIONS[family][int(number)] if kind == "dimensions" else {}
    folder = random_folder(family, root, changes, parts=PARTS[family])
    for path in folder.glob("*.pt") if kind != "dimensions" else ():
        state = torch.load(path, weights_only=True)
        torch.save({name: float(number) * t if t.dim() > 1 else t for name, t in state.items()}, path)
    return folder


def verdict(export: Step, verify: Step, root: Path) -> str:
    """The smallest margin of the verification of a fresh export with its remarks, or why it failed."""
    (role,) = export.outputs
    artifact = root / export.outputs[role].name
    report = artifact.with_suffix(".json")
    try:
        EXPORTS[export.stage](job_of(export, outputs={role: artifact}))
        facts = compare.run(job_of(verify, inputs={"artifact": artifact}, outputs={"report": report}))
    except UserError as error:
        return f"FAIL {error.what}: {error.value}"
    return "; ".join([f"{facts['margin_db']:.1f} dB", *facts["remarks"]])


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize(("family", "which"), folders())
def test_sound_files_of_other_dimensions_and_of_grown_weights_pass(
    family: str, which: str, exporter: str, tmp_path: Path
) -> None:
    folder = folder_of(family, which, tmp_path / "model")
    stages = EXPORTS if exporter == "dynamo" else {"export_onnx"}
    found = {}
    for precision in ("fp32", "fp16", "bf16"):
        words = (f"precision={precision}", f"onnx.exporter={exporter}", "verify.device=cpu", "verify.real_inputs=false")
        steps = all_steps_of(family, *words, folder=folder, artifacts=tmp_path)
        for export in (step for step in steps.values() if step.stage in stages and not step.skip):
            verify = steps[export.task.replace("export", "verify", 1)]
            found[export.task] = verdict(export, verify, tmp_path)
            print(f"sound {which}, {exporter}: {export.task}: {found[export.task]}")
    failed = [text for text in found.values() if text.startswith("FAIL") and OVERFLOW not in text]
    print(f"sound files: {len(found)} of {family}, {which}, {exporter}, {len(failed)} failed")
    assert found
    assert not failed
