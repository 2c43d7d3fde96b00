"""What the double of TensorRT does: parses ONNX, "builds" it, and runs it with ONNX Runtime on the CPU.

Its errors have the wording of the real library. `Faults` makes it fail on purpose.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from tests.support.tensorrt_double import MADE, Bindings
from tests.support.tensorrt_simulated_builder import MAGIC, building, parsing
from tests.support.tensorrt_simulated_engine import engines, running


@dataclass
class Faults:
    """What is to go wrong, and functions to call at certain points."""

    cuda: bool = False  # CUDA does not start: no Builder, no Runtime
    build_errors: tuple[str, ...] = ()  # errors of a build that returns None
    on_step: Callable[[int], None] = lambda step: None  # called in the middle of a build
    steps: int = 3
    contexts_that_fit: int | None = None
    launch: bool = False  # execute_async_v3 returns False
    on_launch: Callable[[], object] = lambda: None  # called while a launch holds its context
    drops_input: str = ""  # the engine lacks this input
    ignores_precision: bool = False  # every layer comes out in FLOAT
    reports_no_types: bool = False  # the inspector reports layer names only
    output_kind: str = ""  # the engine's outputs are of this type instead


@dataclass
class Machine:
    """One TensorRT on one GPU.

    Attributes:
        busy_twice: how often a context was entered while another thread was in it.
    """

    version: str = "10.13.3"
    capability: str = "9.0"
    faults: Faults = field(default_factory=Faults)
    busy_twice: int = 0

    def __post_init__(self) -> None:
        self.bindings = Bindings(self.version, _behaviours(self))
        self.trt = self.bindings.module

    @property
    def is_10(self) -> bool:
        return self.version.startswith("10.")

    def made(self, name: str, /, **state: Any) -> Any:
        return self.bindings.classes[name](MADE, **state)

    def kind(self, name: str) -> Any:
        return self.bindings.classes["DataType"][name]

    def dims(self, shape: Any) -> Any:
        return self.bindings.classes["Dims"](shape)


def _behaviours(machine: Machine) -> dict[str, Any]:
    groups = (building, parsing, engines, running)
    return {name: behaviour for group in groups for name, behaviour in group(machine).items()}


def write_plan(
    machine: Machine, path: Path, model: onnx.ModelProto, *, profiles: list[dict[str, Any]], **head: Any
) -> Path:
    """A plan as `_build` makes it, without building: for tests of the runtime alone."""
    facts = {
        "version": machine.version, "capability": machine.capability, "name": "", "profiles": profiles,
        "strong": True, "compatible": False, "detailed": True,
    } | head  # fmt: skip
    path.write_bytes(MAGIC + json.dumps(facts).encode() + b"\n" + model.SerializeToString())
    return path
