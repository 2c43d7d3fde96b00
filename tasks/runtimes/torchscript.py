"""Runs a TorchScript `.zip` or `.pt`, with the executor settings that deployments of CosyVoice use."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.errors import UserError, reason
from tasks.runtimes.base import METADATA_RECORD, Contents, Dtypes, Shapes, StoredWeight, as_tuple, name_of, to_device
from tasks.settings.number_formats import BY_TORCHSCRIPT

NO_SCHEMA = "(no schema)"  # of control flow and constants


def open_artifact(path: Path, *, device: str, threads: int) -> "TorchScriptModule":
    """Load a file onto a device. `threads` is PyTorch's own setting, made once by the process that calls.

    Raises:
        UserError: the file is not TorchScript, or holds operators that `device` does not have.
    """
    del threads
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("CUDA was asked for and is not there", where=path, value=device, remedy="Set verify.device=cpu")
    try:
        about = {METADATA_RECORD: ""}
        module = torch.jit.load(path, map_location=device, _extra_files=about)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"is not a TorchScript file that runs on {device}",
            where=path,
            value=reason(error),
            remedy="Export it again",
        ) from error
    options = json.loads(about[METADATA_RECORD] or "{}").get("options", {})
    return TorchScriptModule(module, options=options, device=device)


class TorchScriptModule:
    """A loaded TorchScript file, called with the options in its metadata."""

    def __init__(self, module: torch.jit.ScriptModule, *, options: Mapping[str, Any], device: str) -> None:
        self.module, self._options, self._device = module.eval(), dict(options), device
        self.provider = f"TorchScript, PyTorch {torch.__version__} on {device}"
        self.dtypes: Dtypes = {}
        self.shapes: Shapes = {}
        self.outputs: Dtypes = {}

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return self.call("forward", {**inputs, **self._options})

    @torch.inference_mode()
    def call(self, method: str, arguments: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Run a method that the file kept, with keyword arguments."""
        return as_tuple(getattr(self.module, method)(**to_device(arguments, self._device)))


def contents(path: Path) -> Contents:
    """Parameters, and the constants that freezing makes of them; not those packed for one device.

    Formats are those of these, and what results are converted to.

    Raises:
        UserError: as `open_artifact`.
    """
    module = open_artifact(path, device="cpu", threads=1).module
    nodes = [node for name in module._c._method_names() for node in nodes_of(getattr(module, name).graph)]
    floats = [
        (name, tensor.detach())
        for name, tensor in (*module.state_dict().items(), *_constants(nodes))
        if tensor.is_floating_point() and not tensor.is_mkldnn
    ]
    weights = [StoredWeight(name, tensor.cpu) for name, tensor in floats if tensor.numel() > 1]
    return Contents(weights, {name_of(tensor.dtype) for _, tensor in floats}.union(*map(_formats_given, nodes)))


def _constants(nodes: Iterable[Any]) -> Iterator[tuple[str, Tensor]]:
    """Names and values of the tensors in a graph; those that several methods share once."""
    seen = set()
    for node in nodes:
        if node.kind() == "prim::Constant" and node.output().type().kind() == "TensorType":
            tensor = node.t("value")
            place = None if tensor.is_mkldnn else (tensor.data_ptr(), tensor.shape, tensor.stride())
            if place is None or place not in seen:
                seen.add(place)
                yield node.output().debugName(), tensor


def _formats_given(node: Any) -> set[str]:
    """The format of floats that an operator is given for its result, if it is given one."""
    if node.schema() == NO_SCHEMA:
        return set()
    arguments = zip(torch._C.parse_schema(node.schema()).arguments, node.inputs(), strict=True)
    numbers = [value.toIValue() for argument, value in arguments if argument.name == "dtype"]
    formats = [BY_TORCHSCRIPT[number] for number in numbers if number in BY_TORCHSCRIPT]
    return {format_.name for format_ in formats if format_.is_float}


def nodes_of(block: Any) -> Iterator[Any]:
    """The nodes of a graph or block, and of the blocks inside them."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from nodes_of(inner)
