"""One step of the workflow: what doit, the child, the receipt, the reporter and the tests need to know of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.paths import failed_report


@dataclass(frozen=True)
class Skip:
    """Why a step is skipped, decided before anything runs.

    Attributes:
        error_if_selected: selecting the step's stage on the command line is an error, with this reason.
        error_if_named: so is naming this very step.
    """

    reason: str
    remedy: str
    error_if_selected: bool = False
    error_if_named: bool = False

    @property
    def text(self) -> str:
        """Reason and remedy in one line."""
        return f"{self.reason}. {self.remedy[:1].upper()}{self.remedy[1:]}"


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        stage: doit task, ``export_onnx``.
        name: subtask, ``cosyvoice2/flow.decoder.estimator.fp32``.
        action: ``module:function``, imported in the child only.
        inputs: role -> file; the roles, not the paths, are part of the key.
        outputs: role -> file.
        params: everything else that changes the bytes, and nothing that does not; JSON-plain.
        libraries: distributions whose version shapes the bytes.
        records: role of a YAML input -> the keys whose records count, with what they refer to; of others all bytes do.
        local: what belongs to this machine and changes no bytes; JSON-plain.
        after: steps that must have succeeded before, beside those that make an input.
        elsewhere: pattern of the names that the output has when it is made on other machines, beside it.
        reproducible: whether the same ingredients give the same bytes.
        folder: where all outputs lie if they are of use together only; it is put in place as a whole.
        skip: why the step is skipped; None where it can be done.
    """

    stage: str
    name: str
    action: str
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]
    params: Mapping[str, Any]
    libraries: tuple[str, ...] = ()
    records: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    local: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    elsewhere: str = ""
    reproducible: bool = True
    folder: Path | None = None
    skip: Skip | None = None

    @property
    def task(self) -> str:
        """Its name in doit, ``export_onnx:cosyvoice2/flow.decoder.estimator.fp32``."""
        return f"{self.stage}:{self.name}"

    @property
    def receipt(self) -> Path:
        """Beside the output; beside, not in, a folder that is one."""
        if self.folder:
            return self.folder.with_name(f"{self.folder.name}.receipt.json")
        first = next(iter(self.outputs.values()))
        return first.with_name(f"{first.name if len(self.outputs) == 1 else self.stage}.receipt.json")

    @property
    def failed_report(self) -> Path | None:
        """Where the report of a verification is kept if it fails; None for other steps."""
        return failed_report(self.inputs["artifact"]) if "artifact" in self.inputs else None
