"""Inputs for verification: reproducible, at the sizes where things break, with real padding."""

import math

import pytest
import torch

from tasks.actions.inputs.generated import Padding, generated_cases, make_case, trace_sample
from tasks.settings.component import ComponentSpec
from tests.support.errors import error_of
from tests.support.onnx_jobs import estimator_component


def drawn(component=None, *, count=12, seed=0, max_size=1000, static=None, fixed=None):
    spec = ComponentSpec.from_params(component or estimator_component())
    static = static or {"mel": 80}
    return list(generated_cases(spec, count=count, seed=seed, max_size=max_size, static=static, fixed=fixed or {}))


def test_sizes_start_with_smallest_odd_usual_and_largest_allowed():
    sizes = [trial.sizes["frames"] for trial in drawn(count=4)]
    assert sizes[0] == 4
    assert sizes[1] % 2 == 1
    assert sizes[2:] == [500, 1000]


def test_sizes_are_multiples_where_the_axis_says_so():
    axes = {"batch": {"min": 2, "opt": 4, "max": 16, "multiple_of": 2}, "frames": {"min": 4, "opt": 50, "max": 100}}
    sizes = {trial.sizes["batch"] for trial in drawn(estimator_component(axes=axes), count=30)}
    assert all(size % 2 == 0 for size in sizes)
    assert len(sizes) > 3


def test_later_sizes_are_spread_over_the_range():
    sizes = [trial.sizes["frames"] for trial in drawn(count=40)][4:]
    assert all(4 <= size <= 1000 for size in sizes)
    assert len(set(sizes)) > 20
    assert any(size < 40 for size in sizes)
    assert any(size > 200 for size in sizes)


def test_trials_are_the_same_for_the_same_seed_however_many_are_drawn():
    few, many, other = drawn(count=3), drawn(count=6), drawn(count=3, seed=1)
    assert all(torch.equal(a.inputs["x"], b.inputs["x"]) for a, b in zip(few, many, strict=False))
    assert not torch.equal(few[0].inputs["x"], other[0].inputs["x"])


def test_masks_are_tail_padding_full_once_and_strong_once():
    shares = []
    for trial in drawn():
        mask = trial.inputs["mask"]
        lengths = mask.sum(-1).long()
        expected = torch.arange(mask.size(-1)) < lengths.unsqueeze(-1)
        assert torch.equal(mask, expected.float())
        assert lengths.min() >= 1
        assert lengths.max() == mask.size(-1)
        shares.append((mask.mean(-1).min().item(), mask.size(-1)))
    assert any(share == 1 for share, _ in shares)
    assert any(share <= 0.25 for share, size in shares if size > 10)
    assert sum(share < 1 for share, _ in shares) > len(shares) / 2


def test_times_are_points_of_the_cosine_schedule():
    points = torch.tensor([1 - math.cos(math.pi / 2 * k / 10) for k in range(10)])
    times = torch.cat([trial.inputs["t"] for trial in drawn()])
    assert (times.unsqueeze(1) - points).abs().min(1).values.max() < 1e-6
    assert times.unique().numel() > 5


def encoder(**lengths):
    return {
        "name": "encoder",
        "inputs": {
            "xs": {"shape": ["utterances", "tokens", "width"]},
            "xs_lens": {"shape": ["utterances"], "kind": "lengths"} | lengths,
        },
        "axes": {"utterances": {"min": 1, "opt": 1, "max": 4}, "tokens": {"min": 4, "opt": 25, "max": 60}},
    }


def test_lengths_fit_the_axis_they_measure():
    for trial in drawn(encoder(), static={"width": 6}):
        lengths, tokens = trial.inputs["xs_lens"], trial.sizes["tokens"]
        assert lengths.dtype == torch.int32
        assert lengths.min() >= 1
        assert lengths.max() <= tokens
        assert trial.inputs["xs"].shape == (len(lengths), tokens, 6)


def test_declared_dtype_is_used():
    assert drawn(encoder(dtype="int64"), static={"width": 6})[0].inputs["xs_lens"].dtype == torch.int64


def test_axis_that_the_artifact_fixes_keeps_its_size():
    fixed = {"x": (2, 80, 37)}
    assert {trial.sizes["frames"] for trial in drawn(fixed=fixed)} == {37}


def test_axis_without_a_size_is_named():
    error = error_of(drawn, encoder())
    assert "inputs.xs.shape" in error.where
    assert "width" in str(error)


def one_input(**declared):
    inputs = {"ids": {"shape": ["n", "tokens"]} | declared}
    axes = {"n": {"min": 1, "opt": 2, "max": 4}, "tokens": {"min": 4, "opt": 50, "max": 60}}
    return {"name": "net", "inputs": inputs, "axes": axes}


def test_integers_lie_between_their_bounds_and_reach_both():
    values = torch.cat([case.inputs["ids"].flatten() for case in drawn(one_input(kind="integers", low=3, high=9))])
    assert values.dtype == torch.int64
    assert values.unique().tolist() == [3, 4, 5, 6, 7, 8, 9]


def test_uniform_values_fill_their_range():
    values = torch.cat([case.inputs["ids"].flatten() for case in drawn(one_input(kind="uniform", low=-2, high=5))])
    assert -2 <= values.min() < -1.8
    assert 4.8 < values.max() < 5


def test_a_mask_can_be_boolean():
    masks = [case.inputs["ids"] for case in drawn(one_input(kind="mask", dtype="bool"))]
    assert {mask.dtype for mask in masks} == {torch.bool}
    assert masks[1].all()
    assert not masks[3].all()


def test_a_component_with_values_that_are_only_recorded_has_no_generated_cases():
    assert drawn(one_input(kind="recorded")) == []


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        ({}, 1.0),
        ({"kind": "uniform", "low": 2, "high": 3}, 2.0),
        ({"kind": "uniform", "low": -3, "high": 0.5}, 0.5),
        ({"kind": "integers", "low": 0, "high": 9}, 1),
        ({"kind": "integers", "low": 5, "high": 9}, 5),
        ({"kind": "integers", "low": -5, "high": -2}, -2),
        ({"kind": "mask", "dtype": "bool"}, True),
        ({"kind": "recorded"}, 1.0),
        ({"kind": "recorded", "dtype": "int64"}, 0),
    ],
)
def test_the_sample_that_is_traced_lies_within_the_bounds(declared, value):
    spec = ComponentSpec.from_params(one_input(**declared))
    sample = trace_sample(spec, {"n": 1, "tokens": 2})["ids"]
    assert sample.tolist() == [[value, value]]
    assert str(sample.dtype) == f"torch.{spec.inputs['ids'].dtype}"


@pytest.mark.parametrize(("padding", "full"), [(Padding.none, True), (Padding.strong, False)])
def test_padding_is_what_was_asked_for(padding, full):
    spec = ComponentSpec.from_params(estimator_component())
    sizes = {"batch": 2, "mel": 80, "frames": 50}
    case = make_case(spec, sizes, padding=padding, random=torch.Generator().manual_seed(0))
    assert (case.inputs["mask"].min() == 1) == full
    assert case.sizes == sizes
