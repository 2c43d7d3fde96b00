"""The built-in demo, cold, through the real command: from nothing to verified artifacts with their provenance."""

import json
from pathlib import Path

import pytest

from tasks.freshness.receipt import Receipt
from tasks.job import sha256
from tests.support.project import Project

SHORT = ("train.max_epoch=2", "train.steps_per_epoch=3", "average.num=2", "verify.trials=4", "verify.max_frames=60")
ARTIFACTS = ("flow.encoder.fp32.zip", "flow.decoder.estimator.fp32.onnx")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project.copy_to(tmp_path_factory.mktemp("demo"), *SHORT)
    result = project.doit()
    assert result.code == 0, result.out + result.err
    return project


def receipt(path: Path) -> Receipt:
    found = Receipt.read(path.with_name(f"{path.name}.receipt.json"))
    assert found is not None
    return found


def test_one_command_makes_verified_artifacts(demo: Project) -> None:
    for name in ARTIFACTS:
        assert (demo.artifacts / "demo" / name).is_file()
        assert json.loads((demo.artifacts / "demo" / "verify" / f"{name}.json").read_text())["passed"] is True


def test_the_receipts_lead_from_an_artifact_back_to_its_checkpoints(demo: Project) -> None:
    folder = demo.artifacts / "demo"
    averaged = folder / "averaged" / "flow.pt"
    for name in ARTIFACTS:
        assert receipt(folder / name).ingredients.inputs["weights"] == sha256(averaged)
    members = receipt(averaged).ingredients.inputs
    checkpoints = sorted((folder / "train").glob("*.pt"))
    assert {path.name: sha256(path) for path in checkpoints}.items() <= members.items()
    assert {chosen["file"] for chosen in receipt(averaged).results["best_first"]} == {path.name for path in checkpoints}


def test_run_again_it_builds_nothing_and_another_training_setting_rebuilds_everything(demo: Project) -> None:
    again = demo.doit()
    assert not again.steps("build")
    why = demo.doit("why", "train.seed=1")
    assert why.steps("stale") == {"train:demo/flow"}
    assert why.steps("stale") | why.steps("depends") == again.steps("fresh")


def test_the_demos_estimator_passes_preflight_at_the_original_profile(demo: Project) -> None:
    tried = demo.doit("preflight", "tensorrt.profile.frames=[4,500,3000]")
    assert tried.code == 0, tried.out + tried.err
    report = json.loads((demo.artifacts / "demo/preflight/flow.decoder.estimator.fp32.onnx.json").read_text())
    assert [(c["batch"], c["frames"], c["result"]) for c in report["corners"]] == [
        (2, frames, "ran") for frames in (4, 500, 3000)
    ]
