"""What fp32 itself costs is measured on short trials, and on a long one only where an artifact is in doubt."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.actions.inputs.generated import Padding, make_case
from tasks.actions.verify.doubt import FEW_RUNS, all_tried
from tasks.actions.verify.originals import originals
from tasks.actions.verify.reference import Expected, expected_of
from tasks.actions.verify.trial import tried
from tasks.runtimes.eager import PyTorchModule
from tasks.settings.component import ChunkedSpec, ComponentSpec
from tests.support.onnx_jobs import small_component
from tests.support.small_onnx_models import Plain
from tests.support.steps import ESTIMATOR, steps_of

COMPONENT = ComponentSpec.from_params(small_component("Plain"))
LIMITS = steps_of("cosyvoice2", ESTIMATOR)["verify_onnx"].params["verify"]
FRAMES = (4, 40, 10, 39, 7, 5, 6)
LONG = 30  # frames that are no short trial's


class Summing(Plain):
    """Its errors in fp32 grow with the length, as where a sum over all frames is added up in another order."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (1e4 if x.size(2) > LONG else 0.0) - (1e4 if x.size(2) > LONG else 0.0)


class Artifact(PyTorchModule):
    """The module itself; `noise` is added to the outputs of long trials, relative to their norm."""

    def __init__(self, module: torch.nn.Module, noise: float) -> None:
        super().__init__(module, options={}, device="cpu")
        self._noise = noise

    def __call__(self, inputs: Any) -> tuple[Tensor, ...]:
        (output,) = super().__call__(inputs)
        error = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)) * output.std()
        return (output + (self._noise * error if output.size(2) > LONG else 0 * error),)


def expected(
    folder: Path, module: torch.nn.Module, *, dtype: torch.dtype = torch.float32, frames: Sequence[int] = FRAMES
) -> list[Expected]:
    random = torch.Generator().manual_seed(0)
    cases = [
        make_case(COMPONENT, {"batch": 2, "frames": size}, padding=Padding.none, random=random, number=number)
        for number, size in enumerate(frames)
    ]
    reference = PyTorchModule(module, options={}, device="cpu")
    run = partial(expected_of, reference=reference, component=COMPONENT, dtype=dtype, dtypes={}, folder=folder)
    return originals(cases, run, component=COMPONENT, dtype=dtype)


def verified(folder: Path, module: torch.nn.Module, noise: float) -> list[dict[str, Any]]:
    artifact = Artifact(module, noise)
    return all_tried(
        expected(folder, module),
        lambda each, runs: tried(each, artifact, component=COMPONENT, dtype=torch.float32, limits=LIMITS, runs=runs),
    )


def test_fp32_is_measured_on_few_short_trials_and_others_have_the_limits_of_the_nearest(tmp_path):
    trials = dict(zip(FRAMES, expected(tmp_path, Plain()), strict=True))
    measured = {frames: each for frames, each in trials.items() if each.measured is None}
    assert sorted(measured) == [4, 6, 10]
    assert {each.outputs()["y"].dtype for each in measured.values()} == {torch.float64}
    assert trials[40].outputs()["y"].dtype == torch.float32
    nearest = {40: 10, 39: 10, 7: 6, 5: 6}
    assert all(trials[frames].cost == trials[near].cost for frames, near in nearest.items())


def test_of_trials_of_one_size_one_is_measured(tmp_path):
    assert [each.measured is None for each in expected(tmp_path, Plain(), frames=(9, 9, 9))] == [True, False, False]


def test_what_was_spared_is_measured_when_it_is_asked_for(tmp_path):
    _, long, *_ = expected(tmp_path, Plain())
    measured = long.measured()
    assert measured.outputs()["y"].dtype == torch.float64
    assert 120 < measured.cost["y"].snr_db < 160
    torch.testing.assert_close(measured.outputs()["y"].float(), long.outputs()["y"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_16_bits_cost_is_measured_on_every_trial(tmp_path, dtype):
    assert all(each.measured is None and each.cost for each in expected(tmp_path, Plain(), dtype=dtype))


def test_a_method_with_chunks_is_measured_on_every_trial(tmp_path, monkeypatch):
    component = ComponentSpec.from_params(
        small_component("Plain") | {"chunked": {"method": "m", "pieces": "x", "axis": "frames", "state": {}}}
    )
    assert isinstance(component.chunked, ChunkedSpec)
    asked: list[bool] = []

    def run(case: Any, *, measure: bool) -> Expected:
        asked.append(measure)
        return Expected(case, {}, dict, {}, "", lambda seed: {}, 1.0)

    cases = [
        make_case(COMPONENT, {"batch": 2, "frames": n}, padding=Padding.none, random=torch.Generator()) for n in FRAMES
    ]
    originals(cases, run, component=component, dtype=torch.float32)
    assert asked == [True] * len(FRAMES)


def test_a_sound_artifact_passes_without_another_run_in_float64(tmp_path):
    results = verified(tmp_path, Plain(), noise=0.0)
    assert not any(result["failures"] for result in results)
    assert len([*tmp_path.glob("*.measured.pt")]) == 3


def test_an_artifact_that_differs_in_long_trials_only_fails(tmp_path):
    results = verified(tmp_path, Plain(), noise=1e-5)
    assert [bool(result["failures"]) for result in results] == [frames > LONG for frames in FRAMES]
    assert "snr_db" in results[1]["failures"]["y"][0]


def test_an_artifact_beyond_the_limits_of_shorter_trials_passes_where_fp32_itself_is(tmp_path):
    noise = 1e-4  # of fp32 near 1e4
    results = verified(tmp_path, Summing(), noise=noise)
    assert not any(result["failures"] for result in results)
    assert verified(tmp_path, Plain(), noise=noise)[1]["failures"]


@pytest.mark.parametrize(
    ("passes", "asked"),
    [
        ({("spared", 0)}, [("spared", 0)]),
        ({("spared", 1)}, [("spared", 0), ("spared", 1)]),
        ({("measured", 0)}, [("spared", 0), ("spared", 1), ("measured", 0)]),
        ({("measured", FEW_RUNS)}, [("spared", 0), ("spared", 1), ("measured", 0), ("measured", FEW_RUNS)]),
    ],
)
def test_float64_is_run_where_a_run_as_in_another_engine_does_not_explain_the_errors(tmp_path, passes, asked):
    found = []

    def tried_one(trial: Expected, runs: int) -> dict[str, Any]:
        found.append(("spared" if trial.measured else "measured", runs))
        return {"failures": {} if found[-1] in passes else {"y": ["snr_db"]}}

    spared = expected(tmp_path, Plain())[1]
    all_tried([replace(spared, measured=lambda: replace(spared, measured=None))], tried_one)
    assert found == asked
