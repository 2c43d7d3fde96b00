"""Recorded inputs become cases: read by name, cut to the artifact's range, left out with a reason, or refused."""

import pytest
import torch

from tasks.actions.inputs.recorded import recorded_cases
from tasks.settings.component import ComponentSpec
from tests.support.errors import error_of

MEL = ["batch", 3, "frames"]
COMPONENT = {
    "name": "small",
    "inputs": {
        "x": {"shape": MEL},
        "mask": {"shape": ["batch", 1, "frames"], "kind": "mask"},
        "t": {"shape": ["batch"], "kind": "time"},
    },
    "axes": {"batch": {"min": 2, "opt": 2, "max": 4, "multiple_of": 2}, "frames": {"min": 4, "opt": 9, "max": 30}},
}


def call(frames, *, batch=2):
    return {"x": torch.randn(batch, 3, frames), "mask": torch.ones(batch, 1, frames), "t": torch.rand(batch)}


def file_of(folder, tensors, *, name="real.pt"):
    torch.save(tensors, folder / name)
    return folder / name


def tried(path, *, component=COMPONENT, fixed=None):
    inputs = {"artifact": path, "recorded 1": path}
    return recorded_cases(inputs, ComponentSpec.from_params(component), fixed=fixed or {}, first=7)


def test_one_call_is_one_case_with_its_inputs_in_the_declared_order(tmp_path):
    given = call(10)
    (trial,), left_out = tried(file_of(tmp_path, dict(reversed(given.items()))))
    assert not left_out
    assert (trial.number, trial.source, trial.sizes) == (7, "real.pt", {"batch": 2, "frames": 10})
    assert list(trial.inputs) == ["x", "mask", "t"]
    assert all(torch.equal(trial.inputs[name], given[name]) for name in given)


def test_a_file_may_hold_several_calls_and_further_tensors(tmp_path):
    calls = {"first": call(5), "second/step9": call(9)}
    tensors = {f"{where}/{name}": value for where, inputs in calls.items() for name, value in inputs.items()}
    trials, _ = tried(file_of(tmp_path, tensors | {"first/estimator_out": torch.zeros(2)}))
    assert [(t.number, t.source) for t in trials] == [(7, "real.pt: first"), (8, "real.pt: second/step9")]
    assert torch.equal(trials[1].inputs["x"], calls["second/step9"]["x"])


def test_numbers_are_given_in_fp32_as_every_case_has_them(tmp_path):
    (trial,), _ = tried(file_of(tmp_path, {name: value.half() for name, value in call(10).items()}))
    assert {value.dtype for value in trial.inputs.values()} == {torch.float32}


def test_a_call_longer_than_the_artifact_takes_is_cut_at_its_end(tmp_path):
    given = call(50)
    (trial,), _ = tried(file_of(tmp_path, given))
    assert trial.sizes["frames"] == 30
    assert torch.equal(trial.inputs["x"], given["x"][:, :, :30])
    assert torch.equal(trial.inputs["mask"], given["mask"][:, :, :30])


def test_lengths_would_be_wrong_after_a_cut_so_such_a_call_is_left_out(tmp_path):
    lengths = {"lens": {"shape": ["batch"], "kind": "lengths"}}
    component = COMPONENT | {"inputs": COMPONENT["inputs"] | lengths}
    path = file_of(tmp_path, call(50) | {"lens": torch.tensor([50, 20])})
    assert tried(path, component=component) == ([], ["real.pt: frames=50, allowed 4 to 30"])


@pytest.mark.parametrize(
    ("given", "fixed", "reason"),
    [
        (call(3), {}, "frames=3, allowed 4 to 30"),
        (call(10, batch=3), {}, "batch=3, allowed multiples of 2"),
        (call(10, batch=4), {"x": (2, 3, None)}, "batch=4, the artifact takes 2"),
    ],
)
def test_a_call_that_does_not_fit_is_left_out_with_the_reason(tmp_path, given, fixed, reason):
    assert tried(file_of(tmp_path, given), fixed=fixed) == ([], [f"real.pt: {reason}"])


@pytest.mark.parametrize("streaming", [False, torch.tensor(False)])
def test_an_argument_that_is_no_tensor_is_compared_with_the_option_that_the_artifact_fixes(tmp_path, streaming):
    path = file_of(tmp_path, call(10) | {"streaming": streaming, "cache": None})
    trials, _ = tried(path, component=COMPONENT | {"options": {"streaming": False}})
    assert len(trials) == 1
    error = error_of(lambda: tried(path, component=COMPONENT | {"options": {"streaming": True}}))
    assert str(error.value) == "real.pt has streaming=False, small is exported with streaming=True"
    assert error.remedy.startswith("Export it with model.components.small.options.streaming=false, or record with")


BROKEN = {
    "no call": ({}, "real.pt has no call"),
    "an argument that is no option": (call(10) | {"streaming": True}, "neither an input nor an option"),
    "no tensor": (call(10) | {"t": 0.5}, "t is no dense tensor"),
    "mask": ({k: v for k, v in call(10).items() if k != "mask"}, "has no mask"),
    "x is": (call(10) | {"x": torch.randn(2, 4, 10)}, "x is [2, 4, 10], declared ['batch', 3, 'frames']"),
    "frames of the mask": (call(10) | {"mask": torch.ones(2, 1, 9)}, "mask is [2, 1, 9]"),
    "rank": (call(10) | {"t": torch.rand(2, 1)}, "t is [2, 1]"),
    "NaN": (call(10) | {"t": torch.tensor([0.5, float("nan")])}, "t has NaN or Inf"),
}


@pytest.mark.parametrize(("given", "reason"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_inputs_of_the_component_is_refused_with_file_and_reason(tmp_path, given, reason):
    path = file_of(tmp_path, given)
    error = error_of(tried, path)
    assert str(path) in error.where
    assert reason in str(error.value)
