"""Verification: what passes, what never passes, and what a reader is shown."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from tasks.actions.export_onnx import action as export_onnx
from tasks.actions.export_torchscript import action as export_torchscript
from tasks.actions.verify.compare import run
from tasks.job import Job
from tasks.models.loading.checkpoint_file import save_checkpoint
from tests.support import small_onnx_models
from tests.support.errors import error_of
from tests.support.exports import Exports
from tests.support.golden_cases import golden_case
from tests.support.onnx_jobs import (
    TORCHSCRIPT,
    encoder_component,
    estimator_component,
    export_job,
    saved_weights,
    small_component,
    small_export_job,
    verify_job,
)

COMPONENT = estimator_component()


@pytest.fixture
def artifacts(exports: Exports, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the recorded estimator as ONNX in a precision."""

    def copied(precision: str) -> Path:
        path = exports(export_job(COMPONENT, tmp_path, precision=precision, exporter="torchscript"))
        return Path(shutil.copy(path, tmp_path))

    return copied


@pytest.fixture
def artifact(artifacts: Callable[[str], Path]) -> Path:
    return artifacts("fp32")


def change_weights(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Rewrite the largest weight of an ONNX file."""
    model = onnx.load(path)
    largest = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    changed = numpy_helper.from_array(change(numpy_helper.to_array(largest).copy()), largest.name)
    largest.CopyFrom(changed)
    onnx.save(model, path)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_exported_estimator_passes(artifacts, precision):
    job = verify_job(COMPONENT, artifacts(precision), precision=precision, trials=10)
    facts = run(job)
    report = json.loads(job.outputs["report"].read_text())
    assert report["passed"]
    assert facts["trials"] == len(report["trials"]) == 10
    assert facts["provider"] == report["provider"] == "CPUExecutionProvider"


def test_report_has_every_number_of_every_trial(artifact):
    job = verify_job(COMPONENT, artifact)
    run(job)
    report = json.loads(job.outputs["report"].read_text())
    for trial in report["trials"]:
        numbers = trial["outputs"]["estimator_out"]
        assert {"max_abs", "max_rel", "snr_db", "cosine", "outside", "peak_error", "worst"} <= set(numbers)
        assert trial["shapes"]["x"] == [2, 80, trial["sizes"]["frames"]]
        assert set(trial["milliseconds"]) == {"artifact", "reference"}
        assert 80 < trial["floors"]["estimator_out"]["snr_db"] < 150
    assert report["worst"]["margin_db"] > 0
    assert any(trial["valid"]["mask"] < 1 for trial in report["trials"])


def test_slightly_wrong_weights_fail_with_trial_sizes_and_worst_element(artifact):
    change_weights(artifact, lambda weight: weight * 1.05)
    job = verify_job(COMPONENT, artifact)
    error = error_of(run, job)
    assert not job.outputs["report"].exists()
    kept = artifact.with_name(f"{artifact.name}.failed-verification.json")
    assert str(kept) in error.remedy
    report = json.loads(kept.read_text())
    assert not report["passed"]
    assert len([trial for trial in report["trials"] if trial["failures"]]) == len(report["trials"]) == 6
    assert "6 of 6" in error.what
    assert "trial 0 (batch=2, frames=4, mel=80)" in error.value
    assert str(report["trials"][0]["outputs"]["estimator_out"]["worst"]["index"]) in error.value


def test_passing_removes_the_report_of_an_earlier_failure(artifact):
    kept = artifact.with_name(f"{artifact.name}.failed-verification.json")
    kept.write_text("{}")
    run(verify_job(COMPONENT, artifact))
    assert not kept.exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_never_pass_however_lax_the_limits(artifact, bad):
    change_weights(
        artifact,
        lambda weight: np.where(np.arange(weight.size).reshape(weight.shape) == 7, bad, weight).astype(weight.dtype),
    )
    lax = {"max_outside": 1.0, "max_peak_error": 1e9, "min_snr_db": -1e9, "min_cosine": -1.0}
    assert "NaN or Inf" in error_of(run, verify_job(COMPONENT, artifact, **lax)).value


@pytest.fixture
def plain(exports: Exports, tmp_path: Path) -> Path:
    """A copy of the file of `Plain` with its initial weights."""
    return Path(shutil.copy(exports(small_export_job("Plain", tmp_path, exporter="torchscript")), tmp_path))


def plain_with(change: Callable[[small_onnx_models.Plain], object], folder: Path) -> Path:
    """Weights of `Plain` after `change` has worked on it."""
    module = small_onnx_models.Plain()
    with torch.no_grad():
        change(module)
    return saved_weights(module, folder)


def test_reference_that_is_not_finite_never_passes(plain, tmp_path):
    weights = plain_with(lambda module: module.projection.bias[0].fill_(float("nan")), tmp_path)
    error = error_of(run, verify_job(small_component("Plain"), plain, weights=weights))
    assert "NaN or Inf" in error.value


def test_artifact_of_other_weights_fails(plain, tmp_path):
    weights = plain_with(lambda module: module.projection.weight[3, 3].add_(0.01), tmp_path)
    error = error_of(run, verify_job(small_component("Plain"), plain, weights=weights))
    assert error.where == str(plain)
    assert "6 of 6" in error.what


def test_half_precision_artifact_does_not_pass_as_fp32(artifacts):
    path = artifacts("fp16")
    limits = verify_job(COMPONENT, path).params["verify"] | {"accept_format": False}
    assert "snr_db" in error_of(run, verify_job(COMPONENT, path, precision="fp16", **limits)).value


def test_truncated_artifact_is_a_clear_error(artifact):
    artifact.write_bytes(artifact.read_bytes()[:1000])
    assert error_of(run, verify_job(COMPONENT, artifact)).where == str(artifact)


def test_batch_that_the_artifact_fixes_is_not_varied(artifact):
    component = estimator_component(
        axes=COMPONENT["axes"] | {"batch": {"min": 2, "opt": 2, "max": 8, "dynamic": False}}
    )
    job = verify_job(component, artifact)
    run(job)
    trials = json.loads(job.outputs["report"].read_text())["trials"]
    assert {trial["sizes"]["batch"] for trial in trials} == {2}


def test_torchscript_file_of_two_outputs_and_lengths_is_verified(tmp_path):
    component = encoder_component()
    job = export_job(component, tmp_path)
    zip_file = tmp_path / "flow.encoder.fp32.zip"
    settings = {"target": "portable", "optimize": False}
    export_torchscript.run(
        replace(job, outputs={"torchscript": zip_file}, params=job.params | {"torchscript": settings})
    )
    facts = run(verify_job(component, zip_file, engine=TORCHSCRIPT))
    assert facts["provider"].startswith("TorchScript")
    assert facts["max_abs"] <= 1e-4


def with_recordings(job: Job, calls: dict[str, dict[str, torch.Tensor]]) -> Job:
    path = job.inputs["artifact"].with_name("calls.pt")
    save_checkpoint({f"{call}/{name}": value for call, inputs in calls.items() for name, value in inputs.items()}, path)
    return replace(job, inputs=job.inputs | {"recorded 1": path})


def recorded(name: str) -> dict[str, torch.Tensor]:
    """Inputs of the estimator of which the original implementation's output is known."""
    return golden_case("cosyvoice2", name).inputs


def test_recorded_inputs_are_tried_after_the_made_up_ones(artifact):
    calls = {name: recorded(name) for name in ("est_L23_tail0_full", "est_L30_head0_full")}
    job = with_recordings(verify_job(COMPONENT, artifact), calls)
    facts = run(job)
    report = json.loads(job.outputs["report"].read_text())
    sources = [trial["inputs"] for trial in report["trials"]]
    assert sources == ["seeded"] * 6 + ["calls.pt: est_L23_tail0_full", "calls.pt: est_L30_head0_full"]
    assert (facts["trials"], facts["recorded"], report["left_out"]) == (8, 2, [])


def test_a_recorded_call_that_does_not_fit_is_named_in_the_results_and_in_the_report(artifact):
    calls = {
        "fits": recorded("est_L30_head0_full"),
        "single": {k: v[:1] for k, v in recorded("est_L4_full_full").items()},
    }
    job = with_recordings(verify_job(COMPONENT, artifact), calls)
    facts = run(job)
    assert facts["recorded"] == 1
    unfit = "calls.pt: single: batch=1, the artifact takes 2"
    assert facts["remarks"] == [f"not tried: {unfit}"]
    assert json.loads(job.outputs["report"].read_text())["left_out"] == [unfit]


@pytest.fixture
def chaotic(exports: Exports, tmp_path: Path) -> Path:
    return Path(shutil.copy(exports(small_export_job("Chaotic", tmp_path, exporter="torchscript")), tmp_path))


def test_an_artifact_as_good_as_its_format_passes_with_a_remark(chaotic, tmp_path):
    component, weights = small_component("Chaotic"), saved_weights(small_onnx_models.Chaotic(), tmp_path)
    remarks = run(verify_job(component, chaotic, weights=weights))["remarks"]
    assert "as good as fp32 can be, which is -" in remarks[0]
    assert remarks[1:] == ["some outputs decide nothing, for silence would pass as well"]
    strict = verify_job(component, chaotic, weights=weights, accept_format=False)
    assert "6 of 6" in error_of(run, strict).what


def test_where_neither_outputs_nor_weights_decide_anything_nothing_is_verified(chaotic, tmp_path):
    weights = saved_weights(small_onnx_models.Chaotic(), tmp_path)
    job = verify_job(small_component("Chaotic"), chaotic, weights=weights, engine={"contents": ""})
    error = error_of(run, job)
    assert "cannot be verified: silence would pass in each of 6 trials" in error.what
    assert not job.outputs["report"].exists()


def test_a_failure_that_only_a_recorded_call_shows_names_the_call(tmp_path):
    """fp16 holds this input, but not the sums that come of it; the made-up ones are ten thousand times smaller."""
    component, module = small_component("Plain"), small_onnx_models.Plain()
    large = module.projection.weight.detach()[0].sign().mul(6e4).reshape(1, 8, 1).expand(2, 8, 9)
    weights = saved_weights(module, tmp_path)
    export = export_job(component, tmp_path, precision="fp16", weights=weights, exporter="torchscript")
    export_onnx.run(export)
    job = verify_job(component, export.outputs["onnx"], precision="fp16", weights=weights)
    run(job)
    error = error_of(run, with_recordings(job, {"large": {"x": large}}))
    assert "1 of 7" in error.what
    assert "trial 6 (calls.pt: large, batch=2, frames=9): y NaN or Inf" in error.value


def test_a_file_whose_names_are_not_text_is_a_clear_error(plain, tmp_path):
    plain.write_bytes(plain.read_bytes().replace(b"MatMul", b"Mat\xfful"))
    weights = saved_weights(small_onnx_models.Plain(), tmp_path)
    assert error_of(run, verify_job(small_component("Plain"), plain, weights=weights)).where == str(plain)
