"""Runs that are killed at random moments: in the end every artifact is right and nothing is left behind."""

import random
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.endurance import SHORT, Endurance, files, random_moment, steps_of
from tests.support.project import Project

pytestmark = pytest.mark.slow

KILLS = 100


def left_processes(project: Project) -> list[str]:
    """Commands of processes that work on the project."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(project.root) in line]


@pytest.mark.parametrize("at_once", [1, 2])
def test_runs_killed_at_random_moments_end_with_every_artifact_right(built: Project, at_once: int) -> None:
    project = Project(built.root, (*built.settings, *SHORT, f"-n{at_once}"))
    temporary = {path.name for path in Path(tempfile.gettempdir()).iterdir()}
    expected, dice = steps_of(Project(built.root, (*built.settings, *SHORT))), random.Random(at_once)
    endurance = Endurance(project)
    for _ in range(KILLS):
        endurance.run_until(random_moment(dice), with_children=dice.random() < 0.5)
    endurance.run_to_the_end()
    assert endurance.done == expected
    left = [*files(project, private=True), *left_processes(project)]
    new = {path.name for path in Path(tempfile.gettempdir()).iterdir()} - temporary
    stray = sorted(name for name in new if name.startswith(("pymp-", "voxkiln")))
    print(f"\nkills: {KILLS} of runs with -n{at_once}, all {len(expected)} steps right; left: {left}, {stray}")
    assert not left
    assert not stray
