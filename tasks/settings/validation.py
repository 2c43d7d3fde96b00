"""Checks of settings that types cannot express: ranges and rules between fields."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from tasks.plain_data import plain
from tasks.settings.component import AxisSpec
from tasks.settings.declaration_rules import NAME_BYTES, component_problems, malformed_shapes
from tasks.settings.model_schema import Axis, Format
from tasks.settings.onnx_exporters import OPSETS, obstacle
from tasks.settings.schema import Config, Exporter, Mode
from tasks.settings.shape_profiles import profile_problems

FOLDER_NAME = re.compile(r"\w[\w.-]*")
LIMITS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "ge": (lambda value, limit: value >= limit, "{} or more"),
    "gt": (lambda value, limit: value > limit, "more than {}"),
    "le": (lambda value, limit: value <= limit, "{} or less"),
    "lt": (lambda value, limit: value < limit, "less than {}"),
}
NO_LIMITS: Mapping[str, float] = {}


def problems(config: Config) -> list[str]:
    """All that is wrong with a composed configuration, one line each; empty if it can be used."""
    checks = (
        _model_problems, _axis_problems, _profile_problems, range_problems, _opset_problems, component_problems,
    )  # fmt: skip
    return list(malformed_shapes(config)) or [problem for check in checks for problem in check(config)]


def _model_problems(config: Config) -> Iterator[str]:
    model = config.model
    yield from _name_problems("model.name", model.name)
    for part in model.parts:
        yield from _name_problems(f"model.parts.{part}", part)
    for part in model.checkpoints.keys() - model.parts.keys():
        yield f"model.checkpoints.{part}: no such part; the model has {', '.join(model.parts)}"


def _name_problems(setting: str, name: str) -> Iterator[str]:
    if not FOLDER_NAME.fullmatch(name):
        rule = "letters, digits, _, - and ., of which the last two are not in front"
        yield f"{setting}={name}: must be a folder name: {rule}"
    elif len(name.encode()) > NAME_BYTES:
        yield f"{setting}={name}: has {len(name.encode())} bytes; allowed: {NAME_BYTES} or less"


def range_problems(settings: Any, path: str = "", limits: Mapping[str, float] = NO_LIMITS) -> Iterator[str]:
    """The numbers outside the ranges that the schema has beside their defaults; no float may be infinite or NaN."""
    if isinstance(settings, bool):
        return
    if isinstance(settings, int | float) and not _is_within(settings, limits):
        yield f"{path}={settings}: out of range; allowed: {_allowed(limits)}"
    for name, value, own in _entries(settings):
        yield from range_problems(value, f"{path}{name}" if name.startswith("[") else f"{path}.{name}".lstrip("."), own)


def _entries(settings: Any) -> Iterator[tuple[str, Any, Mapping[str, float]]]:
    """What is in a setting: name, value, limits."""
    if is_dataclass(settings):
        yield from ((each.name, getattr(settings, each.name), each.metadata) for each in fields(settings))
    elif isinstance(settings, Mapping):
        yield from ((str(key), value, NO_LIMITS) for key, value in settings.items())
    elif isinstance(settings, list):
        yield from ((f"[{index}]", value, NO_LIMITS) for index, value in enumerate(settings))


def _is_within(value: float, limits: Mapping[str, float]) -> bool:
    finite = isinstance(value, int) or math.isfinite(value)
    return finite and all(LIMITS[name][0](value, limit) for name, limit in limits.items())


def _allowed(limits: Mapping[str, float]) -> str:
    if {"ge", "le"} <= limits.keys():
        return f"{limits['ge']} to {limits['le']}"
    return " and ".join(LIMITS[name][1].format(limit) for name, limit in limits.items()) or "any finite number"


def _opset_problems(config: Config) -> Iterator[str]:
    onnx = config.onnx
    if onnx.exporter is not Exporter.auto and onnx.opset in OPSETS and (found := obstacle(onnx.exporter, onnx.opset)):
        yield f"onnx.opset={onnx.opset}: {'. '.join(found)}"


def _axis_problems(config: Config) -> Iterator[str]:
    exported = _axes_of(config, Format.onnx)
    for name, axis in config.model.axes.items():
        where, sizes = f"model.axes.{name}", f"min={axis.min}, opt={axis.opt}, max={axis.max}"
        if not 1 <= axis.min <= axis.opt <= axis.max:
            yield f"{where}: needs 1 <= min <= opt <= max, got {sizes}"
        elif axis.min == axis.max and name in exported and (axis.dynamic or config.onnx.dynamic_batch):
            setting = "dynamic=true" if axis.dynamic else "onnx.dynamic_batch=true"
            yield f"{where}: {setting} needs more than one size, got {sizes}; raise {where}.max"


def _profile_problems(config: Config) -> Iterator[str]:
    """Plans have the axes of the components that become plans, not all of the model's."""
    axes = {name: AxisSpec(**plain(axis)) for name, axis in _axes_of(config, Format.tensorrt).items()}
    if axes and config.tensorrt.mode is not Mode.off:
        yield from profile_problems(axes, plain(config.tensorrt))


def _axes_of(config: Config, format_: Format) -> dict[str, Axis]:
    """The axes of the inputs of all components that become files of a format."""
    built = [component for component in config.model.components.values() if format_ in component.formats]
    names = {size for component in built for tensor in component.inputs.values() for size in tensor.shape}
    return {name: axis for name, axis in config.model.axes.items() if name in names}
