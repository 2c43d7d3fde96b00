"""A plan is compared with the original module over each of its profiles, and its latency and memory are reported."""

import json
from dataclasses import replace

import torch

from tasks.actions.verify.plan import run
from tasks.job import Job
from tasks.models.loading.checkpoint_file import save_checkpoint
from tests.support.errors import error_of
from tests.support.onnx_samples import CHANNELS, component, small_estimator
from tests.support.simulated_runtime import machine
from tests.support.tensorrt_simulation import write_plan

LIMITS = {
    "max_noise": 10,
    "accept_format": True,
    "rtol": 1e-2,
    "atol": 1e-4,
    "max_outside": 0,
    "max_peak_error": 1e-3,
    "min_snr_db": 60,
    "min_cosine": 0.999,
}


def _bounds(*frames: int) -> dict:
    return {"x": [[2, CHANNELS, n] for n in frames], "mask": [[2, 1, n] for n in frames]}


def _job(folder, *, profiles, model=None, text="", verify=None) -> Job:
    (folder / "config.yaml").write_text(text)
    plan = write_plan(
        machine, folder / "small.plan", model or small_estimator(), profiles=[_bounds(*p["frames"]) for p in profiles]
    )
    return Job(
        step="verify_plan:demo/small",
        action="tasks.actions.verify.plan:run",
        inputs={"config": folder / "config.yaml", "weights": folder / "config.yaml", "artifact": plan},
        outputs={"report": folder / "report.json"},
        params={
            "component": component(),
            "precision": {"name": "fp32"},
            "verify": LIMITS | {"trials": 5, "seed": 0, "max_frames": 20, "device": "cpu"} | (verify or {}),
            "tensorrt": {"profiles": profiles},
            "runtime": "tests.support.simulated_runtime:open_artifact",
            "contents": "",
        },
    )


def test_every_profile_is_compared_over_its_own_range_and_measured(tmp_path):
    job = _job(tmp_path, profiles=[{"frames": [4, 10, 30]}, {"frames": [31, 50, 90]}])
    facts = run(job)
    assert [profile["trials"] for profile in facts["profiles"]] == [5, 5]
    assert [profile["context_memory_mib"] for profile in facts["profiles"]] == [3.0, 3.0]
    assert all(0 < profile["latency_ms"]["median"] <= profile["latency_ms"]["p95"] for profile in facts["profiles"])
    report = json.loads(job.outputs["report"].read_text())
    frames = [{trial["sizes"]["frames"] for trial in p["comparison"]["trials"]} for p in report["profiles"]]
    assert {4, 10, 30} <= frames[0] <= set(range(4, 31))
    assert {31, 50, 90} <= frames[1] <= set(range(31, 91))


def test_a_plan_of_other_weights_fails(tmp_path):
    job = _job(tmp_path, profiles=[{"frames": [4, 10, 30]}], text="doubled")
    assert "5 of 5" in error_of(run, job).what
    assert not job.outputs["report"].exists()


def test_a_plan_that_gives_nan_fails(tmp_path):
    model = small_estimator(operator="Log")
    job = _job(tmp_path, profiles=[{"frames": [4, 10, 30]}], model=model)
    assert "NaN or Inf" in error_of(run, job).value


def test_recorded_inputs_are_tried_in_every_profile_they_fit_cut_to_its_largest_size(tmp_path):
    shapes = {"short": 20, "long": 80}
    calls = {f"{name}/x": torch.randn(2, CHANNELS, frames) for name, frames in shapes.items()}
    calls |= {f"{name}/mask": torch.ones(2, 1, frames) for name, frames in shapes.items()}
    calls |= {f"{name}/t": torch.rand(2) for name in shapes}
    save_checkpoint(calls, tmp_path / "real.pt")
    job = _job(tmp_path, profiles=[{"frames": [4, 10, 30]}, {"frames": [31, 50, 90]}])
    facts = run(replace(job, inputs=job.inputs | {"recorded 1": tmp_path / "real.pt"}))
    assert [(profile["trials"], profile["recorded"]) for profile in facts["profiles"]] == [(7, 2), (6, 1)]
    short, long = (p["comparison"] for p in json.loads(job.outputs["report"].read_text())["profiles"])
    assert [trial["sizes"]["frames"] for trial in short["trials"][5:]] == [20, 30]
    assert long["left_out"] == ["real.pt: short: frames=20, allowed 31 to 90"]
