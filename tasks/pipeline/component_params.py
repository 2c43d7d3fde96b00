"""What a step is given of one component: its declaration as params, the files that it is built from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.job import RECORDED
from tasks.pipeline.graph_inputs import GraphInputs
from tasks.plain_data import plain
from tasks.settings.model_schema import Component, ConfigFormat


def artifact_name(given: GraphInputs, component: Component) -> str:
    """The name of the steps that make or verify a component in one precision."""
    return f"{given.config.model.name}/{component.name}.{given.config.precision.name}"


def sources(given: GraphInputs, component: Component) -> dict[str, Path]:
    """What a component is built from: the model's YAML, the weights of its part, averaged if they can be, its files."""
    averaged = given.is_averaged(component.part)
    file = given.config.model.parts[component.part]
    weights = given.paths.averaged(component.part) if averaged else given.in_folder(file)
    optional = {name: file for name, file in component.optional_files.items() if file not in given.absent}
    files = {name: given.in_folder(file) for name, file in (component.files | optional).items()}
    return {"config": given.model_yaml, "weights": weights, **files}


def records(given: GraphInputs, component: Component) -> dict[str, tuple[str, ...]]:
    """What of the model's YAML counts for a step that builds a component: of its part, its own, those it declares."""
    own = component.name.partition(".")[0]  # that of its part, but for a component that has one beside it
    return records_of(given, component.part, own, *component.records)


def records_of(given: GraphInputs, *keys: str) -> dict[str, tuple[str, ...]]:
    """The records under these keys, for the input that is the model's YAML; of a YAML without records all counts."""
    has_records = given.config.model.config_format is ConfigFormat.hyperpyyaml
    return {"config": tuple(dict.fromkeys(keys))} if has_records else {}


def recordings(given: GraphInputs, component: Component) -> dict[str, Path]:
    """Files of inputs that verification tries as well: those of the `record` stage, and the user's."""
    own = component.recorder and given.config.verify.real_inputs
    files = {f"{RECORDED} {n}": Path(path) for n, path in enumerate(component.recordings, start=1)}
    return ({RECORDED: given.paths.recorded(component.name)} if own else {}) | files


def identity(component: Component) -> dict[str, Any]:
    return {
        "name": component.name,
        "part": component.part,
        "loader": component.loader,
        "options": plain(component.options),
    }


def declaration(given: GraphInputs, component: Component) -> dict[str, Any]:
    """The declaration with the axes that its tensors really have, so that another axis changes nothing here."""
    shapes = [tensor.shape for tensor in component.inputs.values()]
    names = {size for shape in shapes for size in shape}
    axes: Mapping[str, Any] = given.config.model.axes
    return identity(component) | {
        "inputs": plain(component.inputs),
        "outputs": plain(component.outputs),
        "argument_order": [*component.inputs, *component.outputs],  # a receipt does not keep that of a mapping
        "axes": {name: plain(axis) for name, axis in axes.items() if name in names},
    }
