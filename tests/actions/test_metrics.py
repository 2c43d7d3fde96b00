"""The numbers of a comparison, each on tensors small enough to check by hand."""

import math

import pytest
import torch

from tasks.actions.verify.metrics import metrics

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
