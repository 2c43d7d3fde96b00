"""One change at a time on a built project: the set of steps that become stale by it is exactly the expected one."""

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
READ_THE_WEIGHTS = {JIT, VERIFY_JIT, ONNX, VERIFY_ONNX, RECORD}
EVERYTHING = OF_JIT | OF_ONNX | {AVERAGE, RECORD}

Change = Callable[[Project], None]


@dataclass
class Case:
    """A change, by words on the command line or by hand, and the steps that it makes stale by itself.

    What follows from their new outputs is not in the table: it depends on the bytes that come out, and needs a run.
    """

    name: str
    makes_stale: set[str]
    words: tuple[str, ...] = ()
    change: Change = field(default=lambda project: None)


def setting(*words: str, makes_stale: set[str]) -> Case:
    return Case(" ".join(words), makes_stale, words=words)


def code(module: str, *, makes_stale: set[str], statement: str = "_CHANGED = 1") -> Case:
    def change(project: Project) -> None:
        append(project.root / module, f"\n\n{statement}\n")

    return Case(f"{statement} in {module}", makes_stale, change=change)


def files(name: str, change: Change, *, makes_stale: set[str]) -> Case:
    return Case(name, makes_stale, change=change)


def library(distribution: str, *, makes_stale: set[str]) -> Case:
    def change(project: Project) -> None:
        shadow = project.artifacts / f"shadow-of-{distribution}"
        info = shadow / f"{distribution.replace('-', '_')}-99.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 99.0\n")
        project.environment["PYTHONPATH"] = str(shadow)

    return Case(f"another version of {distribution}", makes_stale, change=change)


def artifact(project: Project, name: str) -> Path:
    return project.artifacts / "cosyvoice2" / name


def edit_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


ZIP, GRAPH, AVERAGED = "flow.encoder.fp32.zip", "flow.decoder.estimator.fp32.onnx", "averaged/flow.pt"

CASES = [
    # settings
    setting("average.num=2", makes_stale={AVERAGE}),
    setting("average.val_best=false", makes_stale={AVERAGE}),
    setting("torchscript.target=portable", makes_stale={JIT}),
    setting("torchscript.optimize=false", makes_stale={JIT}),
    setting("onnx.opset=19", makes_stale={ONNX}),
    setting("onnx.exporter=dynamo", makes_stale={ONNX}),
    setting("onnx.simplify=false", makes_stale={ONNX}),
    setting("onnx.constant_folding=false", makes_stale={ONNX}),
    setting("onnx.dynamic_batch=true", "model.axes.batch.max=8", makes_stale=OF_ONNX),
    setting("onnx.external_data=always", makes_stale={ONNX}),
    setting("verify.trials=3", makes_stale=VERIFIED),
    setting("verify.seed=1", makes_stale=VERIFIED),
    setting("verify.max_frames=50", makes_stale=VERIFIED),
    setting("verify.atol=2e-4", makes_stale=VERIFIED),
    setting("verify.auto=false", makes_stale=NOTHING),
    setting("verify.real_inputs=false", makes_stale={VERIFY_ONNX}),
    setting("model.axes.frames.max=2000", makes_stale=OF_ONNX),
    setting("model.axes.tokens.max=1000", makes_stale={VERIFY_JIT}),
    setting("model.components.flow_decoder_estimator.options.streaming=true", makes_stale=OF_ONNX),
    setting("tensorrt.workspace_gib=8", makes_stale=NOTHING),
    setting("tensorrt.mode=off", makes_stale=NOTHING),
    setting("tensorrt.profile.frames=[4,100,200]", makes_stale={PREFLIGHT}),
    # input files
    files("another averaged checkpoint", lambda p: redo_checkpoint(p, epoch=1, loss=1.0), makes_stale={AVERAGE}),
    files("a new best checkpoint", lambda p: redo_checkpoint(p, epoch=4, loss=0.5), makes_stale={AVERAGE}),
    files("a new worst checkpoint", lambda p: redo_checkpoint(p, epoch=4, loss=9.0), makes_stale=NOTHING),
    files("the checkpoint that is not averaged", lambda p: redo_checkpoint(p, epoch=0, loss=4.0), makes_stale=NOTHING),
    files(
        "a comment in the model's YAML",
        lambda p: append(p.root / "model/cosyvoice2.yaml", "\n# a word\n"),
        makes_stale=NOTHING,
    ),
    files(
        "another part in the model's YAML",
        lambda p: p.edit("model/cosyvoice2.yaml", "nsf_alpha: 0.1", "nsf_alpha: 0.2"),
        makes_stale=NOTHING,
    ),
    files(
        "what the part refers to in the model's YAML",
        lambda p: p.edit("model/cosyvoice2.yaml", "chunk_size: 5", "chunk_size: 6"),
        makes_stale=READ_THE_WEIGHTS,
    ),
    files("weights that averaging replaces", lambda p: edit_middle(p.root / "model/flow.pt"), makes_stale=NOTHING),
    files("touched inputs", lambda p: touch(p.root / "model", p.root / "checkpoints"), makes_stale=NOTHING),
    # code
    code("tasks/models/cosyvoice/estimator/unet.py", makes_stale={ONNX, VERIFY_ONNX, RECORD}),
    code("tasks/models/cosyvoice/encoder/upsample.py", makes_stale=OF_JIT | {RECORD}),
    code("tasks/models/cosyvoice/masks.py", makes_stale=READ_THE_WEIGHTS),
    code("tasks/models/cosyvoice/folder.py", makes_stale=READ_THE_WEIGHTS),
    code("tasks/models/cosyvoice/vocoder/hift.py", makes_stale=NOTHING),
    code("tasks/actions/average.py", makes_stale={AVERAGE}),
    code("tasks/actions/export_torchscript/action.py", makes_stale={JIT}),
    code("tasks/actions/export_onnx/action.py", makes_stale={ONNX}),
    code("tasks/actions/verify/compare.py", makes_stale=VERIFIED),
    code("tasks/runtimes/onnxruntime_/session.py", makes_stale=OF_ONNX),  # the export tries an fp16 graph with it
    code("tasks/models/cosyvoice/flow/cosyvoice2.py", makes_stale={RECORD}),
    code("tasks/models/cosyvoice/flow/input_recorder.py", makes_stale={RECORD}),
    code("tasks/workflow/reporter.py", makes_stale=NOTHING),
    code("tasks/errors.py", makes_stale=NOTHING),
    code("tasks/models/cosyvoice/estimator/unet.py", statement="# a comment", makes_stale=NOTHING),
    files(
        "a reworded docstring",
        lambda p: p.edit("tasks/models/cosyvoice/estimator/unet.py", '"""', '"""Reworded: '),
        makes_stale=NOTHING,
    ),
    # libraries
    library("torch", makes_stale={AVERAGE} | READ_THE_WEIGHTS),
    library("onnxruntime-gpu", makes_stale=OF_ONNX),
    library("onnx-ir", makes_stale={ONNX}),
    library("tqdm", makes_stale=NOTHING),
    # artifacts; a file that is missing is not yet an input for the steps after it
    files("a deleted artifact", lambda p: artifact(p, GRAPH).unlink(), makes_stale={ONNX}),
    files("a truncated artifact", lambda p: os.truncate(artifact(p, ZIP), 1000), makes_stale=OF_JIT),
    files("an edited artifact", lambda p: edit_middle(artifact(p, GRAPH)), makes_stale=OF_ONNX),
    files(
        "an edited averaged model",
        lambda p: edit_middle(artifact(p, AVERAGED)),
        makes_stale={AVERAGE} | READ_THE_WEIGHTS,
    ),
    files("a deleted receipt", lambda p: artifact(p, f"{ZIP}.receipt.json").unlink(), makes_stale={JIT}),
    files("a receipt of another shape", lambda p: reshape(artifact(p, f"{ZIP}.receipt.json")), makes_stale={JIT}),
    files("a receipt without outputs", lambda p: claim(p, outputs={}), makes_stale={JIT}),
    files("a deleted report", lambda p: artifact(p, f"verify/{ZIP}.json").unlink(), makes_stale={VERIFY_JIT}),
    files("touched artifacts", lambda p: touch(p.artifacts / "cosyvoice2"), makes_stale=NOTHING),
    files("a digest memo of noise", lambda p: noise(p.artifacts / ".voxkiln/digests.json"), makes_stale=NOTHING),
]

DATABASE = ".voxkiln/doit.json"
DAMAGED_CACHES = [
    ("no doit database", lambda p: (p.artifacts / DATABASE).unlink()),
    ("a broken doit database", lambda p: os.truncate(p.artifacts / DATABASE, 9)),
    ("a doit database of noise", lambda p: noise(p.artifacts / DATABASE)),
    ("no caches at all", lambda p: shutil.rmtree(p.artifacts / ".voxkiln")),
]


def redo_checkpoint(project: Project, *, epoch: int, loss: float) -> None:
    write_checkpoint(project.root / "checkpoints", project.root / "model/flow.pt", epoch=epoch, loss=loss, seed=99)


def noise(path: Path) -> None:
    path.write_bytes(b"\xff\xfe{}")


def reshape(receipt: Path) -> None:
    """JSON, but not what a receipt is: a list instead of the mapping of outputs."""
    content = json.loads(receipt.read_text())
    receipt.write_text(json.dumps(content | {"outputs": list(content["outputs"])}))


def claim(project: Project, **claims: object) -> None:
    """A receipt with other entries, and the artifact flipped that it then does not describe."""
    receipt = artifact(project, f"{ZIP}.receipt.json")
    receipt.write_text(json.dumps(json.loads(receipt.read_text()) | claims))


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def touch(*folders: Path) -> None:
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        path.touch()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_exactly_what_depends_on_a_change_becomes_stale(built: Project, case: Case) -> None:
    case.change(built)
    assert built.stale(*case.words) == case.makes_stale


def builds(project: Project, *words: str) -> set[str]:
    """The steps that a successful run builds."""
    result = project.doit(*words)
    assert result.code == 0, result.out + result.err
    return result.steps("build")


def test_a_run_without_a_change_finds_everything_fresh(built: Project) -> None:
    result = built.doit()
    assert result.steps("fresh") == EVERYTHING
    assert not result.steps("build")


@pytest.mark.parametrize(("name", "damage"), DAMAGED_CACHES, ids=[name for name, _ in DAMAGED_CACHES])
def test_a_run_without_its_caches_builds_nothing(built: Project, name: str, damage: Change) -> None:
    damage(built)
    assert not builds(built)


def test_another_opset_is_built_with_all_that_reads_it_and_is_fresh_from_then_on(built: Project) -> None:
    assert builds(built, "onnx.opset=19") == OF_ONNX
    assert built.doit("onnx.opset=19").steps("fresh") == EVERYTHING


def test_another_choice_of_checkpoints_is_built_with_all_that_reads_the_weights(built: Project) -> None:
    assert builds(built, "average.num=2", "tensorrt.mode=off") == {AVERAGE} | READ_THE_WEIGHTS


def test_changed_code_that_gives_the_same_bytes_rebuilds_nothing_after_it(built: Project) -> None:
    code("tasks/actions/average.py", makes_stale={AVERAGE}).change(built)
    assert builds(built) == {AVERAGE}
    assert not built.stale()


@pytest.mark.parametrize("name", [GRAPH, AVERAGED])
def test_a_damaged_artifact_is_built_again_to_the_same_bytes(built: Project, name: str) -> None:
    before = artifact(built, name).read_bytes()
    edit_middle(artifact(built, name))
    assert builds(built) == {{GRAPH: ONNX, AVERAGED: AVERAGE}[name]}
    assert artifact(built, name).read_bytes() == before


def test_a_damaged_receipt_is_written_again_and_nothing_else_is_built(built: Project) -> None:
    receipt = artifact(built, f"{ZIP}.receipt.json")
    reshape(receipt)
    assert builds(built) == {JIT}
    assert not built.stale()


@pytest.mark.parametrize(
    ("change", "words", "stale", "depends"),
    [
        (lambda p: artifact(p, GRAPH).unlink(), (), {ONNX}, set()),
        (lambda p: edit_middle(artifact(p, AVERAGED)), (), {AVERAGE}, set()),
        (lambda p: artifact(p, f"{ZIP}.receipt.json").unlink(), (), {JIT}, {VERIFY_JIT}),
        (lambda p: None, ("onnx.opset=19",), {ONNX}, OF_ONNX - {ONNX}),
    ],
    ids=["a deleted artifact", "an edited average", "a deleted receipt", "another opset"],
)
def test_why_predicts_what_the_run_does(
    built: Project, change: Change, words: tuple[str, ...], stale: set[str], depends: set[str]
) -> None:
    change(built)
    why = built.doit("why", *words)
    assert why.steps("stale") == stale
    assert why.steps("depends") == depends
    run = built.doit(*words)
    assert stale <= run.steps("build") <= stale | depends
    for step in stale:
        (reason,) = [line.strip() for line in why.out.split(f"stale   {step}\n")[1].splitlines()[:1]]
        assert any(line.startswith("build") and step in line and reason in line for line in run.out.splitlines())


def test_a_syntax_error_in_the_code_of_a_step_is_one_line(built: Project) -> None:
    built.edit("tasks/actions/export_torchscript/action.py", "def run(", "def run((")
    for words in (("why",), ()):
        result = built.doit(*words)
        assert "tasks/actions/export_torchscript/action.py:" in result.out + result.err
        assert "is not valid Python" in result.out + result.err
        assert "Traceback" not in result.out + result.err


def test_why_says_so_when_no_step_has_the_name(built: Project) -> None:
    result = built.doit("why", "export_onx", "export_jit")
    assert result.code == 1
    assert result.steps("fresh") == {JIT}
    assert "no step is called export_onx; `doit list --all` names them" in result.out


def test_info_shows_what_has_changed_and_no_internals(built: Project) -> None:
    result = built.doit("info", ONNX, "onnx.opset=19")
    assert "onnx.opset: 18 -> 19" in result.out
    assert "Step(" not in result.out
