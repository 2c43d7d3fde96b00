"""How a request went, as the child reports it."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Written:
    """One file that a step has put in place; `modified_ns` is its time of modification."""

    sha256: str
    size: int
    modified_ns: int


@dataclass(frozen=True)
class Outcome:
    """How a request went.

    Attributes:
        status: "built", "reused" (another run had built it meanwhile), "failed" (the user can fix it), "crashed".
        message: for a failure, what to print for the user; for a crash, the traceback.
        seconds: wall time of the action.
        peak_memory: highest resident memory of the child in bytes.
        outputs: what was written, by its name beside the receipt.
        remarks: what the user should know of a step that went well, such as inputs that it could not use.
    """

    status: str
    message: str = ""
    seconds: float = 0.0
    peak_memory: int = 0
    outputs: dict[str, Written] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.status in ("built", "reused")

    @property
    def size(self) -> int:
        """Bytes of all outputs."""
        return sum(output.size for output in self.outputs.values())

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> "Outcome":
        return cls(**data | {"outputs": {name: Written(**output) for name, output in data["outputs"].items()}})
