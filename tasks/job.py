"""The one message that crosses from the light floor to a child process: what to run on which files.

It is plain JSON, so that any step can be run again by hand from the file the worker keeps of it.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RECORDED = "recorded"  # role of inputs that are recorded inputs of a component, with anything behind it


@dataclass(frozen=True)
class Job:
    """One run of one action.

    Attributes:
        step: full task name, ``export_onnx:demo/flow.decoder.estimator.fp32``.
        action: ``module:function`` of the action.
        inputs: role -> existing file.
        outputs: role -> file to write. Inside an action these lie in a private folder under their final names;
            the worker moves them into place when the action has returned.
        params: everything else that changes the bytes, JSON-plain.
        local: what belongs to this machine and changes no bytes, a cache's folder say; JSON-plain.
        threads: CPU threads this step may use.
    """

    step: str
    action: str
    inputs: dict[str, Path]
    outputs: dict[str, Path]
    params: dict[str, Any] = field(default_factory=dict)
    local: dict[str, Any] = field(default_factory=dict)
    threads: int = 1

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str, indent=1)  # unsorted: inputs have an order, in files and calls

    @classmethod
    def from_json(cls, text: str) -> "Job":
        data = json.loads(text)
        for key in ("inputs", "outputs"):
            data[key] = {role: Path(path) for role, path in data[key].items()}
        return cls(**data)
