"""Turns a module into an ONNX graph in memory with either of PyTorch's two exporters.

Whatever the exporter, the graph has the declared names, its weights are shared with the module and nothing is saved.
"""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ShapeInferencePass
from torch import Tensor, nn

from tasks.actions.inputs.generated import static_sizes
from tasks.errors import UserError
from tasks.settings.onnx_exporters import EXPORTER_OPSETS, obstacle

SIZES = (
    13,
    17,
    19,
    23,
    29,
    31,
)  # of dynamic axes in the sample: 0 and 1 are special to torch.export, equals get merged

Component = Mapping[str, Any]
Settings = Mapping[str, Any]


def trace(module: nn.Module, *, component: Component, settings: Settings) -> ir.Model:
    """Export `module` with the component's options fixed.

    Args:
        module: in eval mode, fp32, on the CPU.
        component: its declaration; `inputs` in the order of the file, `outputs`, `axes`, `options`.
        settings: `onnx`: exporter, opset, constant_folding, dynamic_batch.

    Raises:
        UserError: the exporter cannot write that opset, or cannot export that module.
    """
    _require_opset(settings["exporter"], settings["opset"])
    dynamic = dynamic_axes(component, dynamic_batch=settings["dynamic_batch"])
    sample = _sample(module, component, dynamic)
    bound = _Bound(module, tuple(component["inputs"]), component["options"]).eval()
    export: Callable[..., ir.Model] = {"dynamo": _with_dynamo, "torchscript": _with_torchscript}[settings["exporter"]]
    with _quiet(), torch.no_grad():
        try:
            model = export(bound, sample, component=component, dynamic=dynamic, settings=settings)
        except torch.onnx.errors.OnnxExporterError as error:
            raise _untraceable(component, settings, error) from error
    _drop_prefix(model)
    return model


def dynamic_axes(component: Component, *, dynamic_batch: bool) -> dict[str, Mapping[str, int]]:
    """The declared axes that vary in the file; `batch` is fixed at its `opt` unless asked for."""
    axes = {name: axis for name, axis in component["axes"].items() if name != "batch" or dynamic_batch}
    for name, axis in axes.items():
        if axis["min"] == axis["max"]:
            raise UserError(
                "an axis of one size only cannot be dynamic",
                where=f"model.axes.{name}",
                value=f"min={axis['min']}, max={axis['max']}",
                remedy=f"Raise model.axes.{name}.max or leave the axis fixed",
            )
    return axes


class _Bound(nn.Module):
    """A module with positional tensor inputs and its options fixed, as both exporters want it."""

    def __init__(self, module: nn.Module, names: tuple[str, ...], options: Mapping[str, Any]) -> None:
        super().__init__()
        self.module, self.names, self.options = module, names, dict(options)

    def forward(self, *tensors: Tensor) -> Any:
        return self.module(**dict(zip(self.names, tensors, strict=True)), **self.options)


def _require_opset(exporter: str, opset: int) -> None:
    if found := obstacle(exporter, opset):
        reason, remedy = found
        raise UserError(reason, where="onnx.opset", value=opset, remedy=remedy)


def _sample(module: nn.Module, component: Component, dynamic: Mapping[str, Any]) -> dict[str, Tensor]:
    sizes = {name: axis["opt"] for name, axis in component["axes"].items()}
    sizes |= {name: _within(size, dynamic[name]) for name, size in zip(dynamic, SIZES, strict=False)}
    sizes |= static_sizes(module)
    return {
        name: _example([sizes.get(size, size) for size in tensor["shape"]], tensor)
        for name, tensor in component["inputs"].items()
    }


def _within(size: int, axis: Mapping[str, int]) -> int:
    return min(max(size, axis["min"]), axis["max"])


def _example(shape: list[int], tensor: Mapping[str, Any]) -> Tensor:
    default = "int32" if tensor["values"] == "lengths" else "float32"
    return torch.ones(shape, dtype=getattr(torch, tensor.get("dtype") or default))


def _with_dynamo(
    bound: _Bound, sample: dict[str, Tensor], *, component: Component, dynamic: Mapping[str, Any], settings: Settings
) -> ir.Model:
    dims = {name: torch.export.Dim(name, min=axis["min"], max=axis["max"]) for name, axis in dynamic.items()}
    shapes = tuple(
        {position: dims[size] for position, size in enumerate(tensor["shape"]) if size in dims}
        for tensor in component["inputs"].values()
    )
    program = torch.onnx.export(
        bound,
        tuple(sample.values()),
        input_names=list(sample),
        output_names=list(component["outputs"]),
        opset_version=settings["opset"],
        dynamic_shapes=(shapes,),
        dynamo=True,
        optimize=settings["constant_folding"],
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export(dynamo=True) returned no program")
    return program.model


def _with_torchscript(
    bound: _Bound, sample: dict[str, Tensor], *, component: Component, dynamic: Mapping[str, Any], settings: Settings
) -> ir.Model:
    shapes = {name: tensor["shape"] for name, tensor in component["inputs"].items()} | dict(component["outputs"])
    axes = {
        name: {position: size for position, size in enumerate(shape) if size in dynamic}
        for name, shape in shapes.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "traced.onnx"
        torch.onnx.export(
            bound,
            tuple(sample.values()),
            str(file),
            input_names=list(sample),
            output_names=list(component["outputs"]),
            opset_version=settings["opset"],
            dynamic_axes=axes,
            dynamo=False,
            do_constant_folding=settings["constant_folding"],
        )
        return _with_unread_inputs(_loaded(file), sample, axes)


def _loaded(file: Path) -> ir.Model:
    """The traced file in memory; shapes are inferred anew, because those of the tracer hide what is static."""
    model = ir.load(file)
    for value in model.graph.initializers.values():  # beyond 2 GB they are memory-mapped from a file about to go
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)
    for output in (output for node in model.graph for output in node.outputs if not output.is_graph_output()):
        output.shape = None
    return ShapeInferencePass(data_prop=True)(model).model


def _with_unread_inputs(
    model: ir.Model, sample: Mapping[str, Tensor], axes: Mapping[str, Mapping[int, str]]
) -> ir.Model:
    """With all inputs in their order: the tracer drops those that nothing reads, but callers give what is declared."""
    read = {value.name: value for value in model.graph.inputs}
    model.graph.inputs[:] = [read.get(name) or _input(name, tensor, axes[name]) for name, tensor in sample.items()]
    return model


def _input(name: str, tensor: Tensor, dynamic: Mapping[int, str]) -> ir.Value:
    shape = [dynamic.get(position, size) for position, size in enumerate(tensor.shape)]
    return ir.val(name, dtype=ir.tensor(tensor).dtype, shape=shape)


def _drop_prefix(model: ir.Model) -> None:
    """Weights keep their names in the state dict, whatever this file wrapped around the module."""
    for value in list(model.graph.initializers.values()):
        if value.name is not None and value.name.startswith("module."):
            value.name = value.name.removeprefix("module.")


def _untraceable(component: Component, settings: Settings, error: Exception) -> UserError:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    other = next(name for name in EXPORTER_OPSETS if name != settings["exporter"])
    return UserError(
        f"the {settings['exporter']} exporter cannot export this module",
        where=component["name"],
        value=f"{type(cause).__name__}: {str(cause).strip().splitlines()[0] if str(cause).strip() else ''}",
        remedy=f"Remove what depends on the values of tensors, or try onnx.exporter={other}",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Both exporters warn about themselves (deprecation, packages that are not installed), never about the module."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
