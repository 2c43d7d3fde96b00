"""Builds a part of a model folder in the original layout, or one component of a part, from its YAML and its weights.

Only what is asked for is imported, built and read: exporting an estimator never opens the language model.
"""

import inspect
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from tasks.errors import UserError, listed
from tasks.models.cosyvoice.hyperyaml.builder import build
from tasks.models.cosyvoice.hyperyaml.class_map import MODEL_OF_FLOW
from tasks.models.cosyvoice.hyperyaml.document import Document
from tasks.models.cosyvoice.hyperyaml.module_limit import module_limit
from tasks.models.cosyvoice.hyperyaml.reader import read_yaml
from tasks.models.cosyvoice.hyperyaml.records import Call, quoted
from tasks.models.loading.checkpoint_file import open_checkpoint, tensors_in
from tasks.models.loading.strict_loading import check_finite, load_strictly
from tasks.models.loading.weight_norm import fix_parametrized_weights, match_weight_norm
from tasks.settings.component import ComponentSpec

LANGUAGE_MODEL_FOLDER = "CosyVoice-BlankEN"
YAML_NAMES = ("cosyvoice.yaml", "cosyvoice2.yaml", "cosyvoice3.yaml")
TRAINED_AT_MOST = 2000  # tensors of a part that is built without weights


def load_component(component: ComponentSpec, *, config: Path, weights: Path) -> nn.Module:
    """One component with its weights, in eval mode and fp32, ready to be exported: weight norm is worked out.

    What is built is what the YAML describes under the component's name.

    Args:
        component: ``name`` (``"flow.decoder.estimator"``), ``part`` (``"flow"``), and the inputs and options that
            its forward must take.
        config: the folder's model YAML.
        weights: state dict of the whole part; only the component's tensors are read.

    Raises:
        UserError: the YAML or the weights are missing, broken, of another model, or do not fit each other.
    """
    document = read_folder_yaml(config)
    call = _find(component.name, document)
    prefix = f"{component.name}.".removeprefix(f"{component.part}.")
    module = _loaded(call, document, weights, prefix)
    _require_arguments(module, call, component, document)
    _require_chunk_size(module, call, component, document)
    for name, weight in fix_parametrized_weights(module).items():
        check_finite(f"{prefix}{name}, computed from its weight norm", weight, weights)
    return module


def load_part(part: str, *, config: Path, weights: Path) -> nn.Module:
    """A whole part, ``"flow"``, ``"hift"`` or ``"llm"``, in eval mode and fp32.

    Raises:
        UserError: as load_component.
    """
    document = read_folder_yaml(config)
    return _loaded(_find(part, document), document, weights, "")


def build_part(part: str, *, config: Path) -> nn.Module:
    """A whole part with random weights, to be trained.

    Raises:
        UserError: the YAML is missing, broken or names what is not known.
    """
    document = read_folder_yaml(config)
    call = _find(part, document)
    with torch.device("meta"), module_limit(TRAINED_AT_MOST):
        _require_memory(build(call, document), call, document)
    module: nn.Module = build(call, document)
    return module


def _require_memory(module: nn.Module, call: Call, document: Document) -> None:
    weights = sum(parameter.numel() for parameter in module.parameters())
    needed, memory = 4 * weights, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise document.problem(
            f"{call.target} is larger than the memory of this machine",
            call.line,
            f"{weights} weights, {needed >> 30} GiB in fp32; there are {memory >> 30} GiB",
            "Lower its sizes",
        )


def read_folder_yaml(config: Path) -> Document:
    """The model YAML of a folder, its language model looked for beside it.

    Raises:
        UserError: as read_yaml; when the folder holds another generation's YAML, the setting that reads it.
    """
    others = [name for name in YAML_NAMES if (config.parent / name).is_file()]
    if not config.is_file() and others:
        settings = " or ".join(f"model={Path(name).stem}" for name in others)
        raise UserError(
            "no such file", where=config, value=f"the folder has {', '.join(others)}", remedy=f"Set {settings}"
        )
    return read_yaml(config, replace={"qwen_pretrain_path": str(config.parent / LANGUAGE_MODEL_FOLDER)})


def _find(name: str, document: Document) -> Call:
    found = document.find(name)
    if not isinstance(found, Call):
        raise UserError(
            f"does not describe {name}",
            where=document.path,
            value=quoted(found),
            remedy=_setting_that_reads(document) or "Give the YAML of the model that is set",
        )
    return found


def _require_arguments(module: nn.Module, call: Call, component: ComponentSpec, document: Document) -> None:
    parameters = inspect.signature(module.forward).parameters
    missing = [name for name in (*component.inputs, *component.options) if name not in parameters]
    if missing:
        raise document.problem(
            f"{component.name} is declared with inputs or options that {call.target} does not take",
            call.line,
            ", ".join(missing),
            _setting_that_reads(document) or f"It takes {', '.join(parameters)}",
        )


def _require_chunk_size(module: nn.Module, call: Call, component: ComponentSpec, document: Document) -> None:
    """Chunk-wise synthesis needs the size of a chunk: without one the artifact would be that for whole utterances."""
    if component.options.get("streaming") and not getattr(module, "static_chunk_size", 0):
        raise document.problem(
            f"{component.option_setting('streaming', True)}, but {call.target} has no static_chunk_size",
            call.line,
            None,
            f"Set {component.option_setting('streaming', False)}, or use the current YAML of the model, "
            "which gives its static_chunk_size",
        )


def _setting_that_reads(document: Document) -> str:
    """A remedy: the setting that reads this folder, according to the class of its flow; empty if that is unknown."""
    flow = document.content.get("flow")
    model = MODEL_OF_FLOW.get(flow.target) if isinstance(flow, Call) else None
    return f"Set model={model}, which reads this folder" if model else ""


def _loaded(call: Call, document: Document, weights: Path, prefix: str) -> nn.Module:
    with torch.device("meta"), module_limit(tensors_in(weights)):
        module: nn.Module = build(call, document)
    tensors = match_weight_norm(module, _state(weights, prefix, module))
    described = f"{document.path}:{call.line}, {call.target}"
    load_strictly(module, tensors, source=weights, within=prefix, described=described)
    return module.eval()


def _state(weights: Path, prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """The component's tensors, still in the mapped file."""
    tensors = open_checkpoint(weights, [prefix + name for name in module.state_dict()])
    state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not state:
        raise UserError(
            f"has no tensor {prefix}*",
            where=weights,
            value=f"{len(tensors)} tensors: {listed(tensors, 3)}",
            remedy="Give the weights of the part that holds this component",
        )
    return state
