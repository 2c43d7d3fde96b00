"""What the steps around TensorRT plans share: their params, and why they are skipped."""

from typing import Any

from tasks.pipeline.component_params import declaration
from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.step import Skip
from tasks.plain_data import plain
from tasks.settings.model_schema import Component
from tasks.settings.schema import Mode

PLANS_OFF = Skip("tensorrt.mode=off: no plans are wanted", "Set tensorrt.mode=auto", error_if_selected=True)

# Settings of TensorRT that decide whether, where and how fast, not what is in the file.
NOT_IN_A_PLAN = ("mode", "timing_cache", "concurrency")


def plan_params(given: GraphInputs, component: Component) -> dict[str, Any]:
    settings: dict[str, Any] = plain(given.config.tensorrt)
    return {
        "component": declaration(given, component),
        "precision": plain(given.config.precision),
        "tensorrt": {name: value for name, value in settings.items() if name not in NOT_IN_A_PLAN},
    }


def plan_skip(given: GraphInputs, obstacle: tuple[str, str] | None) -> Skip | None:
    """An obstacle to plans is an error only where plans are required."""
    if given.config.tensorrt.mode is Mode.off:
        return PLANS_OFF
    if obstacle is None or given.config.tensorrt.mode is Mode.required:
        return None
    return Skip(*obstacle, error_if_selected=True)
