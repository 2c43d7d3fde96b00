"""ONNX files that many tests read and none changes; one for all jobs that would write the same bytes."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.actions.export_onnx import action
from tasks.job import Job, sha256
from tests.support.made_once import made_once

__all__ = ["Exports", "exports"]

FILE = "exported.onnx"


class Exports:
    """Runs export jobs, each once for all processes that run tests.

    Jobs are equal if the contents of their inputs and their params are. A test that changes a file copies it first.
    """

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory

    def __call__(self, job: Job) -> Path:
        """The file that the job would write."""
        contents = {role: sha256(path) for role, path in job.inputs.items()}
        key = hashlib.sha256(json.dumps([contents, job.params], sort_keys=True).encode()).hexdigest()[:16]

        def make(root: Path) -> None:
            facts: dict[str, Any] = action.run(replace(job, outputs={"onnx": root / FILE}))
            (root / "facts.json").write_text(json.dumps(facts))

        return made_once(self._factory, f"export-{key}", make) / FILE

    def facts(self, job: Job) -> dict[str, Any]:
        """What the action returned."""
        facts: dict[str, Any] = json.loads(self(job).with_name("facts.json").read_text())
        return facts


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory)
