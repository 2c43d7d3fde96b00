"""Exports small modules with both PyTorch exporters and compares them with eager mode at other lengths."""

import logging
import warnings
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from tests.support.replay import worst

INPUTS = ("x", "mask", "mu", "t", "spks", "cond")
FRAMEWISE = ("x", "mask", "mu", "cond")
LENGTHS = (4, 23, 37, 100)

Axes = dict[str, dict[int, str]]
Shapes = dict[str, dict[int, object]]


def estimator_inputs(frames: int, *, batch: int = 2) -> dict[str, Tensor]:
    """Random inputs; the first item masks its head, the second its tail, so some queries in chunks see no key."""
    random = torch.Generator().manual_seed(frames)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    mask = torch.ones(batch, 1, frames)
    mask[0, :, : frames // 3] = 0
    mask[1, :, frames - frames // 3 :] = 0
    values = draw(batch, 80, frames), mask, draw(batch, 80, frames), torch.linspace(0, 0.9, batch), draw(batch, 80)
    return dict(zip(INPUTS, (*values, draw(batch, 80, frames)), strict=True))


class Bound(nn.Module):
    """A module with fixed flags, as in an export."""

    def __init__(self, module: nn.Module, **flags: bool) -> None:
        super().__init__()
        self.module, self.flags = module, flags

    def forward(self, *inputs: Tensor) -> Any:
        return self.module(*inputs, **self.flags)


def export(module: nn.Module, path: Path, *, dynamo: bool, dynamic_batch: bool = False) -> onnx.ModelProto:
    """Export an estimator with a dynamic number of frames."""
    axes = {name: {2: "frames"} for name in (*FRAMEWISE, "estimator_out")}
    shapes = _dynamic_shapes(dynamic_batch)
    return _export(module, estimator_inputs(16), path, axes=axes, shapes=shapes if dynamo else None)


def export_encoder(module: nn.Module, path: Path, *, dynamo: bool) -> onnx.ModelProto:
    """Export an encoder with a dynamic number of tokens."""
    axes = {"xs": {1: "tokens"}, "ys": {1: "frames"}, "masks": {2: "frames"}}
    shapes: Shapes = {"xs": {1: torch.export.Dim("tokens", min=4, max=1500)}, "xs_lens": {}}
    return _export(module, encoder_inputs(module, 16), path, axes=axes, shapes=shapes if dynamo else None)


def encoder_inputs(module: nn.Module, tokens: int) -> dict[str, Tensor]:
    """Random inputs; the second item is half as long as the first."""
    random = torch.Generator().manual_seed(tokens)
    xs = torch.randn(2, tokens, module.sizes()["width"], generator=random)
    return {"xs": xs, "xs_lens": torch.tensor([tokens, tokens // 2], dtype=torch.int32)}


def worst_at(module: nn.Module, path: Path, inputs: dict[str, Tensor]) -> float:
    """Largest difference between ONNX Runtime and eager mode in the first output."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    actual = session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
    with torch.no_grad():
        expected = module(*inputs.values())
    return worst(torch.from_numpy(actual), expected[0] if isinstance(expected, tuple) else expected)


def _export(
    module: nn.Module, inputs: dict[str, Tensor], path: Path, *, axes: Axes, shapes: Shapes | None
) -> onnx.ModelProto:
    """Export with the dynamo exporter if ``shapes`` is given, else with the older exporter."""
    names = {"input_names": list(inputs), "output_names": [name for name in axes if name not in inputs]}
    if shapes is None:
        options = {"dynamo": False, "dynamic_axes": axes}
    else:
        by_position = (tuple(shapes.values()),) if isinstance(module, Bound) else shapes
        options = {"dynamo": True, "dynamic_shapes": by_position, "external_data": False, "verbose": False}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(module, tuple(inputs.values()), str(path), opset_version=18, **names, **options)
    return onnx.load(path)


def _dynamic_shapes(dynamic_batch: bool) -> Shapes:
    frames = torch.export.Dim("frames", min=4, max=3000)
    shapes: Shapes = {name: {2: frames} if name in FRAMEWISE else {} for name in INPUTS}
    if dynamic_batch:
        batch = torch.export.Dim("batch", min=2, max=64)
        shapes = {name: {0: batch, **axes} for name, axes in shapes.items()}
    return shapes
