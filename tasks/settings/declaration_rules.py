"""What is wrong with the declarations of a model's components and with the Python objects that they name."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tasks.errors import did_you_mean
from tasks.objects import problem_with_object
from tasks.settings.component import BOUNDED, DTYPES, Dtype, Kind, measured_axes
from tasks.settings.model_schema import Component, Format, Input, Model
from tasks.settings.number_formats import PRECISIONS
from tasks.settings.schema import Config

NAME_BYTES = 120  # leaves room for what the names of files have beside a name of the settings
DOTTED_NAME = re.compile(r"\w+(\.\w+)*")
RANKS = {Kind.lengths: (1, 1), Kind.mask: (2, None)}  # least and most dimensions of an input


def component_problems(config: Config) -> Iterator[str]:
    """One line for each, by the name of the setting."""
    model, objects = config.model, named_objects(config.model)
    if model.training:
        if model.training.part not in model.parts:
            yield f"model.training.part={model.training.part}: not among model.parts ({', '.join(model.parts)})"
        yield from _object_problems(objects, "model.training.loader", "model.training.data")
    yield from _name_problems(model)
    for key, component in model.components.items():
        where = f"model.components.{key}"
        for precision in component.precisions:
            yield from _choice_problems(f"{where}.precisions", precision, PRECISIONS)
        if component.part not in model.parts:
            yield f"{where}.part={component.part}: not among model.parts ({', '.join(model.parts)})"
        yield from _object_problems(objects, f"{where}.loader", f"{where}.recorder")
        yield from _chunked_problems(where, component)
        yield from _size_problems(where, component, config)
        for name, declared in component.inputs.items():
            yield from _input_problems(f"{where}.inputs.{name}", declared)
            yield from _length_problems(f"{where}.inputs.{name}", name, component, config)
            if declared.kind == Kind.recorded and not _has_recordings(component, config):
                yield (
                    f"{where}.inputs.{name}.kind=recorded: its values are only in recordings; "
                    f"set {where}.recorder with verify.real_inputs=true, or {where}.recordings"
                )


def named_objects(model: Model) -> dict[str, str]:
    """Setting -> ``module:function``, for all Python objects that a model's settings name."""
    named: dict[str, str | None] = {}
    if model.training:
        named |= {f"model.training.{role}": getattr(model.training, role) for role in ("loader", "data")}
    for key, component in model.components.items():
        named |= {f"model.components.{key}.{role}": getattr(component, role) for role in ("loader", "recorder")}
    return {setting: name for setting, name in named.items() if name is not None}


def _name_problems(model: Model) -> Iterator[str]:
    """Names of components are the stems of their files."""
    seen: dict[str, str] = {}
    for key, component in model.components.items():
        where = f"model.components.{key}.name={component.name}"
        if not DOTTED_NAME.fullmatch(component.name):
            yield f"{where}: must be names of modules with dots between them"
        elif len(component.name.encode()) > NAME_BYTES:
            yield f"{where}: has {len(component.name.encode())} bytes; allowed: {NAME_BYTES} or less"
        elif component.name in seen:
            yield f"{where}: also the name of model.components.{seen[component.name]}"
        seen.setdefault(component.name, key)
    served = [key for key, component in model.components.items() if Format.vllm in component.formats]
    for key in served[1:]:
        yield f"model.components.{key}.formats: vllm is also a format of {served[0]}; a model has one such folder"


def _object_problems(objects: Mapping[str, str], *settings: str) -> Iterator[str]:
    for setting in settings:
        if setting in objects and (problem := problem_with_object(objects[setting])):
            yield f"{setting}={objects[setting]}: {problem}"


def _chunked_problems(where: str, component: Component) -> Iterator[str]:
    chunked = component.chunked
    if chunked is None:
        return
    if chunked.method not in component.kept_methods:
        yield f"{where}.chunked.method={chunked.method}: not among its kept_methods"
    if chunked.pieces not in component.inputs:
        yield f"{where}.chunked.pieces={chunked.pieces}: no such input; it has {', '.join(component.inputs)}"
    elif chunked.axis not in component.inputs[chunked.pieces].shape:
        yield f"{where}.chunked.axis={chunked.axis}: not in the shape of {chunked.pieces}"


def malformed_shapes(config: Config) -> Iterator[str]:
    """One line for each entry of a shape that is neither a number nor a name; the other checks need these."""
    for key, component in config.model.components.items():
        for place, shape in _shapes(component):
            for size in shape:
                if isinstance(size, bool) or not isinstance(size, int | str) or (isinstance(size, int) and size < 1):
                    yield f"model.components.{key}.{place}: {size} is neither a size nor the name of one"


def _shapes(component: Component) -> Iterator[tuple[str, list[Any]]]:
    yield from ((f"inputs.{name}.shape", declared.shape) for name, declared in component.inputs.items())
    yield from ((f"outputs.{name}", shape) for name, shape in component.outputs.items())


def _size_problems(where: str, component: Component, config: Config) -> Iterator[str]:
    known = {*config.model.axes, *component.named_sizes}
    for place, shape in _shapes(component):
        for size in shape:
            if isinstance(size, str) and size not in known:
                axes = ", ".join(config.model.axes)
                yield f"{where}.{place}: no axis {size} in model.axes ({axes}), and not among {where}.named_sizes"


def _input_problems(where: str, declared: Input) -> Iterator[str]:
    unknown = [*_choice_problems(f"{where}.kind", declared.kind, Kind)]
    if declared.dtype is not None:
        unknown += _choice_problems(f"{where}.dtype", declared.dtype, Dtype)
    yield from unknown
    if not unknown:
        yield from _kind_problems(where, declared, Kind(declared.kind))


def _choice_problems(setting: str, value: str, known: Iterable[str]) -> Iterator[str]:
    choices = [str(choice) for choice in known]
    if value not in choices:
        yield f"{setting}={value}: unknown; choose from {', '.join(choices)}{did_you_mean(value, choices)}"


def _kind_problems(where: str, declared: Input, kind: Kind) -> Iterator[str]:
    dtypes = DTYPES[kind]
    if declared.dtype is not None and declared.dtype not in dtypes:
        yield f"{where}.dtype={declared.dtype}: kind={kind} must be {' or '.join(dtypes)}"
    given = [name for name in ("low", "high") if getattr(declared, name) is not None]
    if given and kind not in BOUNDED:
        yield f"{where}.{given[0]}={getattr(declared, given[0])}: kind={kind} takes no bounds"
    if kind is Kind.integers:
        yield from _integer_problems(where, declared)
    if kind is Kind.uniform:
        low, high = declared.low or 0.0, 1.0 if declared.high is None else declared.high
        if low >= high:
            yield f"{where}.low={low}: must be less than high={high}"
    least, most = RANKS.get(kind, (0, None))
    if len(declared.shape) < least or (most is not None and len(declared.shape) > most):
        yield f"{where}.shape={declared.shape}: kind={kind} has {least} dimension{'s or more' if most is None else ''}"


def _integer_problems(where: str, declared: Input) -> Iterator[str]:
    low, high = declared.low, declared.high
    if low is None or high is None:
        missing = " and ".join(name for name, bound in (("low", low), ("high", high)) if bound is None)
        yield f"{where}.kind=integers: needs {missing}; both bounds are included"
        return
    bits = 32 if declared.dtype == Dtype.int32 else 64
    for name, bound in (("low", low), ("high", high)):
        if not bound.is_integer():
            yield f"{where}.{name}={bound}: not a whole number"
        elif not -(2 ** (bits - 1)) <= bound < 2 ** (bits - 1):
            yield f"{where}.{name}={bound:.0f}: outside of the range of int{bits}"
    if low > high:
        yield f"{where}.low={low:.0f}: must not exceed high={high:.0f}"


def _length_problems(where: str, name: str, component: Component, config: Config) -> Iterator[str]:
    declared = component.inputs[name]
    shapes = {other: tensor.shape for other, tensor in component.inputs.items()}
    candidates = measured_axes(name, shapes, config.model.axes)
    if declared.kind != Kind.lengths:
        if declared.axis is not None:
            yield f"{where}.axis={declared.axis}: kind={declared.kind} measures no axis"
    elif declared.axis is not None and declared.axis not in candidates:
        yield f"{where}.axis={declared.axis}: no axis of another input; there is {', '.join(candidates) or 'none'}"
    elif declared.axis is None and len(candidates) > 1:
        yield f"{where}.axis: these lengths could measure any of {', '.join(candidates)}; set it"
    elif declared.axis is None and not candidates:
        yield f"{where}.axis: no other input has an axis that these lengths could measure"


def _has_recordings(component: Component, config: Config) -> bool:
    return bool(component.recordings) or (component.recorder is not None and config.verify.real_inputs)
