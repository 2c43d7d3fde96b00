"""Runs that are killed, interrupted or run side by side: nothing finished is lost, nothing broken is left."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tasks.freshness.digests import sha256
from tasks.freshness.receipt import Receipt
from tests.support.project import Project

KILLS = 20
LONGEST_LIFE_SECONDS = 4.0


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


def test_killing_runs_at_random_moments_breaks_nothing_and_repeats_nothing(built: Project) -> None:
    dice = random.Random(0)
    project, everything = without_artifacts(built), finished(built) or None
    done: set[str] = set()
    completed_runs = 0
    for _ in range(KILLS):
        process = project.start()
        time.sleep(dice.uniform(0.2, LONGEST_LIFE_SECONDS))
        kill = os.kill if dice.random() < 0.5 else os.killpg  # doit alone, or doit with its children
        if process.poll() is None:
            kill(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        assert not done & {line.split()[1] for line in out.splitlines() if line.startswith("build")}
        done = finished(project)
        if process.returncode == 0:
            completed_runs += 1
            everything = done
            without_artifacts(project)
            done = set()
    last = project.doit()
    assert last.code == 0, last.out + last.err
    assert not done & last.steps("build")
    assert everything is None or finished(project) == everything
    assert not list(project.artifacts.rglob(".partial"))


def test_an_interrupted_run_says_so_without_a_traceback_and_leaves_nothing_half_written(built: Project) -> None:
    project = without_artifacts(built)
    process = project.start()
    wait_for(project, ".partial")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "interrupted; finished steps are kept" in err
    assert "Traceback" not in err
    assert not list(project.artifacts.rglob(".partial"))
    finished(project)


@pytest.mark.parametrize("processes", ["-n2"])
def test_steps_can_run_side_by_side(built: Project, processes: str) -> None:
    expected = finished(built)
    result = without_artifacts(built).doit(processes)
    assert result.code == 0, result.out + result.err
    assert finished(built) == expected


def test_two_runs_at_the_same_time_build_each_step_once(built: Project) -> None:
    expected = finished(built)
    project = without_artifacts(built)
    runs = [project.start(), project.start()]
    outputs = [run.communicate(timeout=200) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    done = [line.split()[1] for out, _ in outputs for line in out.splitlines() if line.startswith("done")]
    assert sorted(done) == sorted(expected)


def wait_for(project: Project, name: str, *, seconds: float = 60.0) -> Path:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for path in project.artifacts.rglob(name):
            return path
        time.sleep(0.02)
    pytest.fail(f"{name} did not appear")
