"""The one message from the light floor to a step's process: a job, its lock, and where its receipt is written.

It is a JSON file, so that a step can be run again by hand: `python -m tasks.child.worker FILE`.
"""

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tasks.freshness.receipt import Ingredients
from tasks.job import Job
from tasks.plain_data import write_atomically


@dataclass(frozen=True)
class Request:
    """What one child process is asked to do.

    Attributes:
        job: with outputs at their final places.
        receipt: where the receipt goes.
        lock: file locked while the step runs, so that two runs keep out of each other's way.
        log: file for everything the libraries print.
        memo: the digest memo.
        ingredients: of the key, as found when the step was chosen to run. The code is that of the last execution;
            the worker replaces it by what it observes.
        records: of inputs that count in part, see `tasks.pipeline.step.Step`.
        awaited: see `tasks.freshness.decide.Decision`; the parent has these digests once the step needs them.
        always: build even if the receipt shows that the step is fresh.
    """

    job: Job
    receipt: Path
    lock: Path
    log: Path
    memo: Path
    ingredients: Ingredients
    records: Mapping[str, Sequence[str]] = field(default_factory=dict)
    awaited: Mapping[str, list[list[int]]] = field(default_factory=dict)
    always: bool = False

    def write(self, file: Path) -> None:
        # Keys stay unsorted: inputs have an order, in files and in calls.
        write_atomically(file, json.dumps(asdict(self), default=str, indent=1))

    @classmethod
    def read(cls, file: Path) -> "Request":
        data = json.loads(file.read_text(encoding="utf-8"))
        data |= {name: Path(data[name]) for name in ("receipt", "lock", "log", "memo")}
        job = data["job"]
        job |= {key: {role: Path(path) for role, path in job[key].items()} for key in ("inputs", "outputs")}
        return cls(**data | {"job": Job(**job), "ingredients": Ingredients(**data["ingredients"])})

    @property
    def workdir(self) -> Path:
        """The private folder that the action writes to, on the file system of its outputs."""
        return self.receipt.parent / ".partial" / self.receipt.name.removesuffix(".receipt.json")

    def make_workdir(self) -> None:
        """Make it anew, without what a killed run left there."""
        self.clear_workdir()
        while not self.workdir.is_dir():
            self.workdir.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another step has just removed the parent, which was empty
                self.workdir.mkdir()

    def clear_workdir(self) -> None:
        shutil.rmtree(self.workdir, ignore_errors=True)
        with contextlib.suppress(OSError):  # another step is using its own folder in there
            self.workdir.parent.rmdir()
