"""Runs that are killed, interrupted or run side by side: nothing finished is lost, nothing broken is left."""

import itertools
import os
import random
import signal

import pytest

from tests.support.endurance import (
    MOMENTS,
    SHORT,
    Endurance,
    files,
    finished,
    random_moment,
    steps_of,
    wait_until,
    without_artifacts,
    written,
)
from tests.support.project import Project

RANDOM_KILLS = 2


@pytest.fixture
def short(built: Project) -> Project:
    """The built project with the steps of a short run."""
    return Project(built.root, (*built.settings, *SHORT))


def test_killing_runs_at_every_kind_of_moment_breaks_nothing_and_repeats_nothing(short: Project) -> None:
    expected = steps_of(short)
    endurance = Endurance(short)
    for (_, seen), with_children in zip(MOMENTS, itertools.cycle([False, True]), strict=False):
        endurance.run_until(seen, with_children=with_children)
    endurance.run_to_the_end()
    assert endurance.done == expected
    assert not list(files(short, private=True))


def test_killing_runs_at_random_moments_breaks_nothing_and_repeats_nothing(short: Project) -> None:
    expected, dice = steps_of(short), random.Random(0)
    endurance = Endurance(short)
    for _ in range(RANDOM_KILLS):
        endurance.run_until(random_moment(dice), with_children=dice.random() < 0.5)
    endurance.run_to_the_end()
    assert endurance.done == expected
    assert not list(files(short, private=True))


def test_an_interrupted_run_says_so_without_a_traceback_and_leaves_nothing_half_written(short: Project) -> None:
    project = without_artifacts(short)
    process = project.start()
    wait_until(written("flow.pt"), project, process)
    os.killpg(process.pid, signal.SIGINT)
    result = project.end_of(process)
    assert result.code != 0
    assert "interrupted" in result.err
    assert "Traceback" not in result.err
    assert not list(files(project, private=True))
    finished(project)


def test_steps_can_run_side_by_side(short: Project) -> None:
    expected = steps_of(short)
    result = without_artifacts(short).doit("-n2")
    assert result.code == 0, result.out + result.err
    assert finished(short) == expected


def test_steps_whose_memory_does_not_fit_together_wait_for_each_other(short: Project) -> None:
    expected = steps_of(short)
    result = without_artifacts(short).doit("-n2", "memory_gib=0.001")
    assert result.code == 0, result.out + result.err
    assert "waits: it takes about" in result.err
    assert finished(short) == expected


def test_two_runs_at_the_same_time_build_each_step_once(short: Project) -> None:
    expected = steps_of(short)
    project = without_artifacts(short)
    runs = [project.start(), project.start()]
    results = [project.end_of(run) for run in runs]
    assert [result.code for result in results] == [0, 0], results
    assert sorted([*results[0].steps("done"), *results[1].steps("done")]) == sorted(expected)
