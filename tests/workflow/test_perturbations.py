"""One change at a time on a built project: the set of steps that run again is exactly the expected one."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.checkpoints import write_checkpoint
from tests.support.project import Project

AVERAGE = "average:cosyvoice2/flow"
JIT, VERIFY_JIT = "export_jit:cosyvoice2/flow.encoder.fp32", "verify_jit:cosyvoice2/flow.encoder.fp32"
ONNX, VERIFY_ONNX = (
    "export_onnx:cosyvoice2/flow.decoder.estimator.fp32",
    "verify_onnx:cosyvoice2/flow.decoder.estimator.fp32",
)
RECORD = "record:cosyvoice2/flow.decoder.estimator"
PREFLIGHT = "preflight:cosyvoice2/flow.decoder.estimator.fp32"
NOTHING: set[str] = set()
OF_JIT, OF_ONNX, VERIFIED = {JIT, VERIFY_JIT}, {ONNX, VERIFY_ONNX, PREFLIGHT}, {VERIFY_JIT, VERIFY_ONNX}
SAME_ONNX = {ONNX, VERIFY_ONNX}  # written again with the same bytes, which were tried before
AFTER_WEIGHTS = OF_JIT | SAME_ONNX | {RECORD}
EVERYTHING = OF_JIT | OF_ONNX | {AVERAGE, RECORD}

Change = Callable[[Project], None]


@dataclass
class Case:
    """A change, by words on the command line or by hand, and what it makes stale."""

    name: str
    expected: set[str]
    words: tuple[str, ...] = ()
    change: Change = field(default=lambda project: None)


def setting(*words: str, makes: set[str]) -> Case:
    return Case(" ".join(words), makes, words=words)


def code(module: str, *, makes: set[str], statement: str = "_CHANGED = 1") -> Case:
    def change(project: Project) -> None:
        path = project.root / module
        path.write_text(path.read_text() + f"\n\n{statement}\n")

    return Case(f"{statement} in {module}", makes, change=change)


def files(name: str, change: Change, *, makes: set[str]) -> Case:
    return Case(name, makes, change=change)


def library(distribution: str, *, makes: set[str]) -> Case:
    def change(project: Project) -> None:
        shadow = project.root / "artifacts" / "shadow"
        info = shadow / f"{distribution.replace('-', '_')}-99.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 99.0\n")
        project.environment["PYTHONPATH"] = str(shadow)

    return Case(f"another version of {distribution}", makes, change=change)


def artifact(project: Project, name: str) -> Path:
    return project.artifacts / "cosyvoice2" / name


def edit_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


ZIP, GRAPH = "flow.encoder.fp32.zip", "flow.decoder.estimator.fp32.onnx"

CASES = [
    # settings
    setting("average.num=2", makes=EVERYTHING),
    setting("average.val_best=false", makes=EVERYTHING),
    setting("torchscript.target=portable", makes=OF_JIT),
    setting("torchscript.optimize=false", makes=OF_JIT),
    setting("onnx.opset=19", makes=OF_ONNX),
    setting("onnx.exporter=dynamo", makes=OF_ONNX),
    setting("onnx.simplify=false", makes=OF_ONNX),
    setting("onnx.constant_folding=false", makes=OF_ONNX),
    setting("onnx.dynamic_batch=true", "model.axes.batch.max=8", makes=OF_ONNX),
    setting("onnx.external_data=always", makes=OF_ONNX),
    setting("onnx.keep_fp32=[Softmax]", makes=NOTHING),  # nothing is fp16 here
    setting("verify.trials=3", makes=VERIFIED),
    setting("verify.seed=1", makes=VERIFIED),
    setting("verify.max_frames=50", makes=VERIFIED),
    setting("verify.atol=2e-4", makes=VERIFIED),
    setting("verify.auto=false", makes=NOTHING),
    setting("verify.real_inputs=false", makes={VERIFY_ONNX}),
    setting("model.axes.frames.max=2000", makes=OF_ONNX),
    setting("model.axes.tokens.max=1000", makes={VERIFY_JIT}),
    setting("model.components.flow_decoder_estimator.options.streaming=true", makes=OF_ONNX),
    setting("train.lr=0.1", makes=NOTHING),
    setting("tensorrt.workspace_gib=8", makes=NOTHING),
    setting("tensorrt.mode=off", makes=NOTHING),
    setting("tensorrt.profile.frames=[4,100,200]", makes={PREFLIGHT}),
    # input files
    files("another averaged checkpoint", lambda p: redo_checkpoint(p, epoch=1, loss=1.0), makes=EVERYTHING),
    files("a new best checkpoint", lambda p: redo_checkpoint(p, epoch=4, loss=0.5), makes=EVERYTHING),
    files("a new worst checkpoint", lambda p: redo_checkpoint(p, epoch=4, loss=9.0), makes=NOTHING),
    files("the checkpoint that is not averaged", lambda p: redo_checkpoint(p, epoch=0, loss=4.0), makes=NOTHING),
    files("the model's YAML", lambda p: append(p.root / "model/cosyvoice2.yaml", "\n# a word\n"), makes=AFTER_WEIGHTS),
    files("weights that averaging replaces", lambda p: edit_middle(p.root / "model/flow.pt"), makes=NOTHING),
    files("touched inputs", lambda p: touch(p.root / "model", p.root / "checkpoints"), makes=NOTHING),
    # code
    code("tasks/models/cosyvoice/estimator/unet.py", makes=SAME_ONNX | {RECORD}),
    code("tasks/models/cosyvoice/encoder/upsample.py", makes=OF_JIT | {RECORD}),
    code("tasks/models/cosyvoice/masks.py", makes=AFTER_WEIGHTS),
    code("tasks/models/cosyvoice/folder.py", makes=AFTER_WEIGHTS),
    code("tasks/models/cosyvoice/vocoder/hift.py", makes=NOTHING),
    code("tasks/actions/average.py", makes={AVERAGE}),  # the same bytes come out, so nothing after it
    code("tasks/actions/export_torchscript/action.py", makes={JIT}),
    code("tasks/actions/export_onnx/action.py", makes={ONNX}),
    code("tasks/actions/verify/compare.py", makes=VERIFIED),
    code("tasks/runtimes/onnxruntime_/session.py", makes=OF_ONNX),  # the export tries an fp16 graph with it
    code("tasks/models/cosyvoice/flow/cosyvoice2.py", makes={RECORD}),
    code("tasks/models/cosyvoice/flow/input_recorder.py", makes={RECORD}),
    code("tasks/workflow/reporter.py", makes=NOTHING),
    code("tasks/errors.py", makes=NOTHING),
    code("tasks/models/cosyvoice/estimator/unet.py", statement="# a comment", makes=NOTHING),
    files(
        "a reworded docstring",
        lambda p: p.edit("tasks/models/cosyvoice/estimator/unet.py", '"""', '"""Reworded: '),
        makes=NOTHING,
    ),
    # libraries
    library("torch", makes={AVERAGE} | AFTER_WEIGHTS),
    library("onnxruntime-gpu", makes=OF_ONNX),
    library("onnx-ir", makes={ONNX}),
    library("tqdm", makes=NOTHING),
    # artifacts
    files("a deleted artifact", lambda p: artifact(p, GRAPH).unlink(), makes={ONNX}),
    files("a truncated artifact", lambda p: os.truncate(artifact(p, ZIP), 1000), makes={JIT}),
    files("an edited artifact", lambda p: edit_middle(artifact(p, GRAPH)), makes={ONNX}),
    files("an edited averaged model", lambda p: edit_middle(artifact(p, "averaged/flow.pt")), makes={AVERAGE}),
    files("a deleted receipt", lambda p: artifact(p, f"{ZIP}.receipt.json").unlink(), makes={JIT}),
    files("a deleted report", lambda p: artifact(p, f"verify/{ZIP}.json").unlink(), makes={VERIFY_JIT}),
    files("touched artifacts", lambda p: touch(p.artifacts / "cosyvoice2"), makes=NOTHING),
    files("no doit database", lambda p: (p.artifacts / ".voxkiln/doit.json").unlink(), makes=NOTHING),
    files("a broken doit database", lambda p: os.truncate(p.artifacts / ".voxkiln/doit.json", 9), makes=NOTHING),
    files("a doit database of noise", lambda p: noise(p.artifacts / ".voxkiln/doit.json"), makes=NOTHING),
    files("a digest memo of noise", lambda p: noise(p.artifacts / ".voxkiln/digests.json"), makes=NOTHING),
    files("a receipt of another shape", lambda p: reshape(artifact(p, f"{ZIP}.receipt.json")), makes={JIT}),
    files("no caches at all", lambda p: shutil.rmtree(p.artifacts / ".voxkiln"), makes=NOTHING),
]


def redo_checkpoint(project: Project, *, epoch: int, loss: float) -> None:
    write_checkpoint(project.root / "checkpoints", project.root / "model/flow.pt", epoch=epoch, loss=loss, seed=99)


def noise(path: Path) -> None:
    path.write_bytes(b"\xff\xfe{}")


def reshape(receipt: Path) -> None:
    """JSON, but not what a receipt is: a list instead of the mapping of outputs."""
    told = json.loads(receipt.read_text())
    receipt.write_text(json.dumps(told | {"outputs": list(told["outputs"])}))


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def touch(*folders: Path) -> None:
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        path.touch()


def test_nothing_is_stale_without_a_change(built: Project) -> None:
    result = built.doit()
    assert result.steps("fresh") == EVERYTHING
    assert not result.steps("build")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_exactly_what_depends_on_a_change_is_built_again(built: Project, case: Case) -> None:
    case.change(built)
    result = built.doit(*case.words)
    assert result.code == 0, result.out + result.err
    assert result.steps("build") == case.expected


def test_what_was_built_again_is_fresh_from_then_on(built: Project) -> None:
    assert built.doit("onnx.opset=19").steps("build") == OF_ONNX
    assert built.doit("onnx.opset=19").steps("fresh") == EVERYTHING


def test_why_says_so_when_no_step_has_the_name(built: Project) -> None:
    result = built.doit("why", "export_onx", "export_jit")
    assert result.code == 1
    assert result.steps("fresh") == {JIT}
    assert "no step is called export_onx; `doit list --all` names them" in result.out


def test_info_tells_what_has_changed_and_no_internals(built: Project) -> None:
    result = built.doit("info", ONNX, "onnx.opset=19")
    assert "onnx.opset: 18 -> 19" in result.out
    assert "Step(" not in result.out
