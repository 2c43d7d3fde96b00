"""Runs that are killed, interrupted or run side by side: nothing finished is lost, nothing broken is left."""

import itertools
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.freshness.receipt import Receipt
from tasks.job import sha256
from tests.support.project import HANGS_AFTER_SECONDS, Project, Result

# average, then a TorchScript and an ONNX file side by side: what is killed does not depend on what is computed
SHORT = ("verify.auto=false", "tensorrt.mode=off")
LONGEST_PAUSE_SECONDS = 1.0
RANDOM_KILLS = 2
CAMPAIGN_KILLS = 30

Seen = Callable[[Project], bool]


def files(project: Project, *, private: bool = False) -> Iterator[str]:
    """Names of the files that lie in their places, or in the private folders of steps that are running."""
    for folder, _, names in os.walk(project.artifacts):  # unlike a glob it may meet what is just vanishing
        if (".partial" in Path(folder).parts) == private:
            yield from names


def written(name: str) -> Seen:
    """A step has begun to write a file, which nobody else can see yet."""
    return lambda project: name in files(project, private=True)


def in_place(name: str) -> Seen:
    return lambda project: name in files(project)


ZIP, GRAPH = "flow.encoder.fp32.zip", "flow.decoder.estimator.fp32.onnx"
# In the order of a run, so that each kill meets the run that goes on after the one before.
MOMENTS = [
    ("a step writes its first file", written("flow.pt")),
    ("a file is in its place, perhaps without its receipt", in_place("flow.pt")),
    ("a step writes a file", written(ZIP)),
    ("a receipt is in its place", in_place(f"{ZIP}.receipt.json")),
    ("a step writes another file", written(GRAPH)),
    ("the last file is in its place", in_place(GRAPH)),
]


@pytest.fixture
def short(built: Project) -> Project:
    """The built project with the steps of a short run."""
    return Project(built.root, (*built.settings, *SHORT))


def finished(project: Project) -> set[str]:
    """The steps whose receipts vouch for what is on the disk; a receipt that does not match fails the test."""
    steps = set()
    for path in project.artifacts.rglob("*.receipt.json"):
        receipt = Receipt.read(path)
        assert receipt is not None, f"{path} is broken"
        for name, claimed in receipt.outputs.items():
            assert sha256(path.parent / name) == claimed["sha256"], f"{name} is not what its receipt says"
        steps.add(receipt.step)
    return steps


def without_artifacts(project: Project) -> Project:
    for path in sorted(project.artifacts.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return project


def wait_until(seen: Seen, project: Project, process: "subprocess.Popen[str]") -> None:
    """Until something is seen or the run is over, however long it takes."""
    while process.poll() is None and not seen(project):
        time.sleep(0.002)


def kill(process: "subprocess.Popen[str]", *, with_children: bool) -> Result:
    """Kill doit alone, whose child must then end by itself, or the whole group; what it had printed."""
    if process.poll() is None:
        (os.killpg if with_children else os.kill)(process.pid, signal.SIGKILL)
    out, err = process.communicate(timeout=HANGS_AFTER_SECONDS)  # until its children have ended, which hold the pipe
    return Result(process.returncode, out, err)


class Endurance:
    """A project whose runs are killed one after another; what a run had finished is never built again."""

    def __init__(self, project: Project) -> None:
        self.project = without_artifacts(project)
        self.done: set[str] = set()

    def run_until(self, seen: Seen, *, with_children: bool) -> None:
        process = self.project.start()
        wait_until(seen, self.project, process)
        self._check(kill(process, with_children=with_children))
        if process.returncode == 0:  # it was quicker than the kill: from the beginning
            without_artifacts(self.project)
            self.done = set()

    def run_to_the_end(self) -> None:
        result = self.project.doit()
        assert result.code == 0, result.out + result.err
        self._check(result)

    def _check(self, result: Result) -> None:
        assert not self.done & result.steps("build")
        now = finished(self.project)
        assert self.done <= now
        self.done = now


def test_killing_runs_at_every_kind_of_moment_breaks_nothing_and_repeats_nothing(short: Project) -> None:
    expected = steps_of(short)
    endurance = Endurance(short)
    for (_, seen), with_children in zip(MOMENTS, itertools.cycle([False, True]), strict=False):
        endurance.run_until(seen, with_children=with_children)
    endurance.run_to_the_end()
    assert endurance.done == expected
    assert not list(files(short, private=True))


@pytest.mark.parametrize("kills", [RANDOM_KILLS, pytest.param(CAMPAIGN_KILLS, marks=pytest.mark.slow)])
def test_killing_runs_at_random_moments_breaks_nothing_and_repeats_nothing(short: Project, kills: int) -> None:
    expected, dice = steps_of(short), random.Random(0)
    endurance = Endurance(short)
    for _ in range(kills):
        endurance.run_until(_random_moment(dice), with_children=dice.random() < 0.5)
    endurance.run_to_the_end()
    assert endurance.done == expected
    assert not list(files(short, private=True))


def _random_moment(dice: random.Random) -> Seen:
    """Some time after something was seen; where that is in a run is left to chance."""
    (_, seen), pause = dice.choice(MOMENTS), dice.uniform(0, LONGEST_PAUSE_SECONDS)

    def seen_and_waited(project: Project) -> bool:
        if seen(project):
            time.sleep(pause)
            return True
        return False

    return seen_and_waited


def steps_of(project: Project) -> set[str]:
    """The steps of a run, all fresh."""
    return project.doit().steps("fresh")


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


def test_two_runs_at_the_same_time_build_each_step_once(short: Project) -> None:
    expected = steps_of(short)
    project = without_artifacts(short)
    runs = [project.start(), project.start()]
    results = [project.end_of(run) for run in runs]
    assert [result.code for result in results] == [0, 0], results
    assert sorted([*results[0].steps("done"), *results[1].steps("done")]) == sorted(expected)
