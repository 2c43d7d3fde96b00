"""A profile that TensorRT or the network could not run is refused with the setting's name, before anything is built."""

import pytest

from tasks.settings.component import AxisSpec
from tasks.settings.shape_profiles import complete_profiles, corners, profile_problems

AXES = {"frames": AxisSpec(4, 500, 3000, least=2), "batch": AxisSpec(2, 2, 2, multiple_of=2)}


def test_the_axis_table_alone_gives_one_profile():
    assert complete_profiles(AXES, {}) == [{"frames": (4, 500, 3000), "batch": (2, 2, 2)}]


def test_a_setting_replaces_one_axis_and_keeps_the_others():
    assert complete_profiles(AXES, {"profile": {"frames": [8, 64, 128]}}) == [
        {"frames": (8, 64, 128), "batch": (2, 2, 2)}
    ]


def test_each_of_several_profiles_is_completed():
    settings = {"profile": {"batch": [2, 4, 8]}, "profiles": [{"frames": [4, 100, 400]}, {"frames": [400, 900, 3000]}]}
    assert complete_profiles(AXES, settings) == [
        {"frames": (4, 100, 400), "batch": (2, 4, 8)},
        {"frames": (400, 900, 3000), "batch": (2, 4, 8)},
    ]


def test_sound_profiles_have_no_problem():
    assert profile_problems(AXES, {"profiles": [{"frames": [4, 100, 400]}, {"batch": [2, 4, 32]}]}) == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"profile": {"frames": [500, 4, 3000]}}, "tensorrt.profile.frames=[500, 4, 3000]: needs min <= opt <= max"),
        ({"profile": {"batch": [2, 3, 4]}}, "tensorrt.profile.batch=[2, 3, 4]: 3 not a multiple of 2"),
        ({"profile": {"frames": [1, 4, 8]}}, "tensorrt.profile.frames=[1, 4, 8]: min is below 2, the smallest size"),
        (
            {"profile": {"frame": [4, 5, 6]}},
            "tensorrt.profile.frame: no such axis; axes of the TensorRT components: batch, frames",
        ),
        ({"profile": {"frames": [4, 500]}}, "tensorrt.profile.frames=[4, 500]: needs three whole numbers"),
        ({"profile": {"frames": "4,5,6"}}, "tensorrt.profile.frames=4,5,6: needs three whole numbers"),
        ({"profile": {"frames": [4, 5.5, 6]}}, "needs three whole numbers"),
        ({"profiles": [{}, {"frames": [9, 8, 10]}]}, "tensorrt.profiles[1].frames=[9, 8, 10]: needs min <= opt"),
        ({"profiles": [{"batch": [0, 2, 4]}]}, "tensorrt.profiles[0].batch=[0, 2, 4]: min is below 1"),
        ({"profiles": [{}, {}]}, "tensorrt.profiles[1]: the same as tensorrt.profiles[0]"),
    ],
)
def test_an_impossible_profile_is_refused_by_its_settings_name(settings, expected):
    problems = profile_problems(AXES, settings)
    assert len(problems) == 1
    assert problems[0].startswith(expected) or expected in problems[0]


def test_a_range_that_the_axis_table_gives_is_refused_by_the_tables_name():
    odd = AXES | {"batch": AxisSpec(2, 2, 33, multiple_of=2)}
    several = {"profile": {"frames": [4, 8, 9]}, "profiles": [{"frames": [4, 5, 6]}, {"frames": [4, 5, 7]}]}
    for settings in ({}, {"profile": {"frames": [4, 5, 6]}}, several):
        (problem,) = profile_problems(odd, settings)
        assert problem.startswith("model.axes.batch=[2, 2, 33]: 33 not a multiple of 2")


def test_a_range_that_every_profile_takes_over_is_refused_once_and_by_its_own_name():
    settings = {"profile": {"batch": [2, 3, 4]}, "profiles": [{"frames": [4, 5, 6]}, {"frames": [4, 5, 7]}]}
    (problem,) = profile_problems(AXES, settings)
    assert problem.startswith("tensorrt.profile.batch=[2, 3, 4]")


def test_all_problems_are_listed_at_once():
    assert len(profile_problems(AXES, {"profile": {"frames": [9, 8, 7], "batch": [1, 1, 1]}})) == 2


def test_a_static_axis_gives_one_corner_where_all_sizes_agree():
    assert corners({"batch": (2, 2, 2)}) == {"min": {"batch": 2}}
    assert list(corners({"batch": (2, 2, 2), "frames": (4, 500, 3000)})) == ["min", "opt", "max"]
