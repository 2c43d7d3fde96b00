"""A work order: one job with what the worker needs to lock it, prove it and file its receipt.

It is kept as a JSON file, so that a step can be run again by hand: `python -m tasks.child.worker FILE`.
"""

import contextlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.freshness.receipt import Ingredients
from tasks.job import Job


@dataclass(frozen=True)
class Order:
    """What one child process is to do.

    Attributes:
        job: with outputs at their final places.
        receipt: where the receipt goes.
        lock: file locked while the step runs, so that two runs keep out of each other's way.
        log: file for everything the libraries print.
        memo: the digest memo.
        ingredients: the key's ingredients as found when the step was chosen to run.
        force: build even if the receipt says it is fresh.
    """

    job: Job
    receipt: Path
    lock: Path
    log: Path
    memo: Path
    ingredients: Ingredients
    force: bool = False

    @property
    def workdir(self) -> Path:
        """The private folder that the action writes to, on the file system of its outputs."""
        return self.receipt.parent / ".partial" / self.receipt.name.removesuffix(".receipt.json")

    def clear_workdir(self) -> None:
        shutil.rmtree(self.workdir, ignore_errors=True)
        with contextlib.suppress(OSError):  # another step is using its own folder in there
            self.workdir.parent.rmdir()

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str, indent=1)  # unsorted: inputs have an order, in files and calls

    @classmethod
    def from_json(cls, text: str) -> "Order":
        data = json.loads(text)
        data |= {name: Path(data[name]) for name in ("receipt", "lock", "log", "memo")}
        data["job"] = Job.from_json(json.dumps(data["job"]))
        data["ingredients"] = Ingredients(**data["ingredients"])
        return cls(**data)


@dataclass(frozen=True)
class Outcome:
    """How an order went, as the child tells it.

    Attributes:
        status: "built", "reused" (another run had built it meanwhile), "failed" (the user can mend it), "crashed".
        message: for a failure, what to tell the user; for a crash, the traceback.
        seconds: wall time of the action.
        peak_memory: highest resident memory of the child in bytes.
        size: bytes of all outputs.
    """

    status: str
    message: str = ""
    seconds: float = 0.0
    peak_memory: int = 0
    size: int = 0

    @property
    def ok(self) -> bool:
        return self.status in ("built", "reused")

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)
