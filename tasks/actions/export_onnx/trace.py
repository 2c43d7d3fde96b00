"""Turns a module into an ONNX graph in memory with either of PyTorch's two exporters.

Whatever the exporter, the graph has the declared names, its weights are shared with the module and nothing is saved.
"""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from math import isqrt
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ShapeInferencePass
from torch import Tensor, nn

from tasks.actions.export_onnx.decompositions import FewestDecompositions
from tasks.actions.export_onnx.placed_blocks import place
from tasks.actions.export_onnx.repeated_blocks import TracedOnce
from tasks.actions.inputs.declared_shapes import require_declared_shapes
from tasks.actions.inputs.generated import static_sizes, trace_sample
from tasks.errors import UserError, reason
from tasks.settings.component import AxisSpec, ComponentSpec
from tasks.settings.onnx_exporters import EXPORTER_OPSETS

SMALLEST_SIZE = 13  # of dynamic axes in the sample

Settings = Mapping[str, Any]


def trace(module: nn.Module, *, component: ComponentSpec, settings: Settings) -> ir.Model:
    """Export `module` with the component's options fixed.

    Args:
        module: in eval mode, fp32, on the CPU.
        settings: `onnx`: exporter, opset, constant_folding, simplify, dynamic_batch.

    Raises:
        UserError: the module does not take the declared shapes, or the exporter cannot export it.
    """
    dynamic = component.dynamic_axes(dynamic_batch=settings["dynamic_batch"])
    sample = _sample(module, component, dynamic)
    require_declared_shapes(module, component, sample)
    bound = _Bound(module, tuple(component.inputs), component.options).eval()
    export: Callable[..., ir.Model] = {"dynamo": _with_dynamo, "torchscript": _with_torchscript}[settings["exporter"]]
    with _quiet(), torch.no_grad():
        try:
            model = export(bound, sample, component=component, dynamic=dynamic, settings=settings)
        except torch.onnx.errors.OnnxExporterError as error:
            raise _untraceable(component, settings, error) from error
    _drop_prefix(model)
    return model


class _Bound(nn.Module):
    """A module with positional tensor inputs and its options fixed, as both exporters want it."""

    def __init__(self, module: nn.Module, names: tuple[str, ...], options: Mapping[str, Any]) -> None:
        super().__init__()
        self.module, self.names, self.options = module, names, dict(options)

    def forward(self, *tensors: Tensor) -> Any:
        return self.module(**dict(zip(self.names, tensors, strict=True)), **self.options)


def _sample(module: nn.Module, component: ComponentSpec, dynamic: Mapping[str, AxisSpec]) -> dict[str, Tensor]:
    """A sample whose dynamic axes have different prime sizes: equal ones are merged, 0 and 1 are special to PyTorch."""
    varying = {
        name: min(max(size, axis.min), axis.max)
        for (name, axis), size in zip(dynamic.items(), _primes(), strict=False)  # there is no last prime
    }
    return trace_sample(component, component.sizes_at("opt") | varying | static_sizes(module))


def _primes() -> Iterator[int]:
    return (n for n in count(SMALLEST_SIZE) if all(n % divisor for divisor in range(2, isqrt(n) + 1)))


def _with_dynamo(
    bound: _Bound,
    sample: dict[str, Tensor],
    *,
    component: ComponentSpec,
    dynamic: Mapping[str, AxisSpec],
    settings: Settings,
) -> ir.Model:
    dims = {name: torch.export.Dim(name, min=axis.min, max=axis.max) for name, axis in dynamic.items()}
    shapes = tuple(
        {position: dims[size] for position, size in enumerate(declared.shape) if isinstance(size, str) and size in dims}
        for declared in component.inputs.values()
    )

    def exported() -> torch.onnx.ONNXProgram | None:
        return torch.onnx.export(
            bound,
            tuple(sample.values()),
            input_names=list(sample),
            output_names=list(component.outputs),
            opset_version=settings["opset"],
            dynamic_shapes=(shapes,),
            dynamo=True,
            optimize=settings["constant_folding"] and not settings["simplify"],  # which folds constants, too
            verbose=False,
        )

    # Only with what folds constants later: until then weights have the names by which the blocks are told apart.
    blocks = TracedOnce(bound, enabled=settings["simplify"])
    with FewestDecompositions() as decompositions, blocks:
        try:
            model = _model(exported())
            place(model, blocks.weights)
        except (torch.onnx.errors.OnnxExporterError, ValueError):
            if not (decompositions.returned or blocks.spared):
                raise
        else:
            return model
    return _model(exported())


def _model(program: torch.onnx.ONNXProgram | None) -> ir.Model:
    if program is None:
        raise RuntimeError("torch.onnx.export(dynamo=True) returned no program")
    return program.model


def _with_torchscript(
    bound: _Bound,
    sample: dict[str, Tensor],
    *,
    component: ComponentSpec,
    dynamic: Mapping[str, AxisSpec],
    settings: Settings,
) -> ir.Model:
    axes = {
        name: {position: size for position, size in enumerate(shape) if isinstance(size, str) and size in dynamic}
        for name, shape in component.shapes.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "traced.onnx"
        torch.onnx.export(
            bound,
            tuple(sample.values()),
            str(file),
            input_names=list(sample),
            output_names=list(component.outputs),
            opset_version=settings["opset"],
            dynamic_axes=axes,
            dynamo=False,
            do_constant_folding=settings["constant_folding"],
        )
        return _with_unread_inputs(_loaded(file), sample, axes)


def _loaded(file: Path) -> ir.Model:
    """The traced file in memory; shapes are inferred again, because those of the tracer hide what is static."""
    model = ir.load(file)
    for value in model.graph.initializers.values():  # beyond 2 GB they are memory-mapped from this temporary file
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)
    for output in (output for node in model.graph for output in node.outputs if not output.is_graph_output()):
        output.shape = None
    return ShapeInferencePass(data_prop=True)(model).model


def _with_unread_inputs(
    model: ir.Model, sample: Mapping[str, Tensor], axes: Mapping[str, Mapping[int, str]]
) -> ir.Model:
    """With all inputs in their order: the tracer drops those that nothing reads, but callers give all declared ones."""
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


def _untraceable(component: ComponentSpec, settings: Settings, error: Exception) -> UserError:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    other = next(name for name in EXPORTER_OPSETS if name != settings["exporter"])
    return UserError(
        f"the {settings['exporter']} exporter cannot export this module",
        where=component.name,
        value=f"{type(cause).__name__}: {reason(cause)}",
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
