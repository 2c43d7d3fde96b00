"""A project whose runs are killed, one after another, and what must be true of it after each."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.freshness.receipt import Receipt
from tasks.job import sha256
from tests.support.project import HANGS_AFTER_SECONDS, Project, Result

# average, then a TorchScript and an ONNX file side by side: what is killed does not depend on what is computed
SHORT = ("verify.auto=false", "tensorrt.mode=off")
LONGEST_PAUSE_SECONDS = 1.0

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


def random_moment(dice: random.Random) -> Seen:
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
