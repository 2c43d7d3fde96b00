"""The numbers of a comparison, each on tensors small enough to check by hand."""

import math

import pytest
import torch

from tasks.actions.verify.metrics import Floor, metrics

STRICT = {"max_outside": 0.0, "max_peak_error": 1e-3, "min_snr_db": 80, "min_cosine": 0.9999999}


def compared(found, reference, *, rtol=1e-2, atol=1e-4):
    return metrics(torch.tensor(found), torch.tensor(reference), rtol=rtol, atol=atol)


def test_equal_tensors_pass_everything():
    result = compared([1.0, -2.0], [1.0, -2.0])
    assert result.failures(STRICT) == []
    assert (result.max_abs, result.outside, result.snr_db) == (0, 0, math.inf)


def test_noise_of_one_percent_is_forty_decibels():
    result = compared([1.01, -0.99, 1.01, -0.99], [1.0, -1.0, 1.0, -1.0])
    assert result.snr_db == pytest.approx(40, abs=1e-3)
    assert result.peak_error == pytest.approx(0.01, abs=1e-5)


def test_share_outside_counts_elements_beyond_atol_and_rtol():
    result = compared([1.0, 1.02, 0.0, 2e-4], [1.0, 1.0, 0.0, 0.0])
    assert result.outside == 0.5
    assert result.worst["index"] == [1]


def test_relative_error_ignores_elements_near_zero():
    assert compared([100.0, 1e-3], [100.0, 1e-6]).max_rel == 0


@pytest.mark.parametrize(
    ("found", "reference"),
    [
        ([1.0, math.nan], [1.0, 1.0]),
        ([1.0, -math.inf], [1.0, 1.0]),
        ([1.0, 1.0], [1.0, math.inf]),
        ([math.inf], [math.inf]),
        ([math.nan], [math.nan]),
    ],
)
def test_nan_and_inf_fail_on_either_side_even_when_equal(found, reference):
    result = compared(found, reference)
    assert result.failures({"max_outside": 1, "max_peak_error": 9e9, "min_snr_db": -9e9, "min_cosine": -1}) == [
        "NaN or Inf"
    ]


def test_worst_element_of_a_broken_tensor_is_the_broken_one():
    assert compared([[1.0, 2.0], [math.nan, 4.0]], [[1.0, 2.0], [3.0, 9.0]]).worst["index"] == [1, 0]


def test_silence_that_is_not_reproduced_fails():
    assert "snr_db" in " ".join(compared([0.5, 0.0], [0.0, 0.0]).failures(STRICT))


def test_masks_of_booleans_are_compared():
    assert metrics(torch.tensor([True, False]), torch.tensor([True, True]), rtol=0, atol=0).outside == 0.5


def test_report_is_plain_json_with_what_is_not_finite_as_text():
    plain = compared([1.0], [1.0]).to_plain()
    assert plain["snr_db"] == "inf"
    assert plain["worst"] == {"index": [0], "value": 1.0, "reference": 1.0}


COST = compared([1.001, -1.001, 1.0, 1.0] * 5000, [1.0, -1.0, 1.0, 1.0] * 5000)  # 63 dB


@pytest.mark.parametrize(("error", "passes"), [(0.9e-3, True), (1.5e-3, False)])
def test_noise_beyond_what_the_format_costs_fails_though_the_limits_allow_it(error, passes):
    floor = Floor.of(COST, torch.float16, max_noise=2)
    limits = {"max_outside": 1, "max_peak_error": 1, "min_snr_db": 20, "min_cosine": 0.9}
    assert (compared([1 + error] * 20_000, [1.0] * 20_000).failures(limits, floor) == []) is passes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("excuses", [True, False])
def test_what_the_format_itself_costs_passes_beyond_the_limits_unless_they_are_asked_for(dtype, excuses):
    floor = Floor.of(COST, dtype, max_noise=2, excuses=excuses)
    assert (compared([1.001, -1.001], [1.0, -1.0]).failures(STRICT, floor) == []) is excuses


def test_a_format_that_costs_nothing_allows_a_rounding_of_the_output():
    floor = Floor.of(compared([1.0] * 100_000, [1.0] * 100_000), torch.float32, max_noise=1)
    assert floor.snr_db == pytest.approx(149.3, abs=0.3)


@pytest.mark.parametrize("errors", [[1e-3] * 16, [1e-3] * 16 + [0.0] * 10**5, [1e-3] * 16 + [1e-7] * 10**5])
def test_errors_of_few_elements_may_differ_more_by_chance(errors):
    few = Floor.of(compared([1 + error for error in errors], [1.0] * len(errors)), torch.float32, max_noise=2)
    snr_db = compared([1 + error for error in errors], [1.0] * len(errors)).snr_db
    assert snr_db - few.snr_db > 10
    assert COST.snr_db - Floor.of(COST, torch.float32, max_noise=2).snr_db < 4
