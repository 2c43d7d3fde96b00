"""What the passes after the trace do to a graph: engines recognize it, weights keep their names, results stay."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tests.support.small_graphs import exported, largest_error, operators


class Gelu(nn.Module):
    """As in a feed-forward block, whose second projection could take the half."""

    def __init__(self, approximate: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.gelu, self.after = nn.Linear(8, 16), nn.GELU(approximate), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.gelu(self.before(x.transpose(1, 2)))).transpose(1, 2)


@torch.no_grad()
@pytest.mark.parametrize(
    ("exporter", "approximate", "function"),
    [("dynamo", "none", "Erf"), ("torchscript", "none", "Erf"), ("dynamo", "tanh", "Tanh")],
)
def test_onnxruntime_recognizes_gelu(tmp_path: Path, exporter, approximate, function):
    module = Gelu(approximate)
    model = exported(module, exporter=exporter)
    assert operators(model)[function] == 1
    assert largest_error(model, module) < 1e-6
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert found[function] == 0
    assert sum(count for name, count in found.items() if name.endswith("Gelu")) == 1


class TwoNorms(nn.Module):
    """Whose weights are equal as long as they are not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(8, 128), nn.Linear(128, 8)
        self.first, self.second = nn.LayerNorm(128), nn.LayerNorm(128)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.second(self.first(self.wide(x.transpose(1, 2))).tanh())).transpose(1, 2)


@torch.no_grad()
def test_equal_weights_keep_their_names():
    """With the default exporter; the older one merges them by itself."""
    weights = exported(TwoNorms()).graph.initializers
    assert {"first.weight", "first.bias", "second.weight", "second.bias"} <= weights.keys()


class Activated(nn.Module):
    """Of the inputs themselves, so that a test chooses what the activation sees."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.mish(x)


MISH = [("dynamo", 18, "Mish"), ("dynamo", 23, "Mish"), ("torchscript", 17, "Softplus")]  # Mish is of opset 18


@torch.no_grad()
@pytest.mark.parametrize(("exporter", "opset", "kept"), MISH)
def test_mish_of_an_fp32_graph_needs_a_sigmoid_only(exporter, opset, kept):
    model = exported(Activated(), exporter=exporter, opset=opset)
    found = operators(model)
    assert found["Sigmoid"] == 1
    assert found[kept] == found["Tanh"] == 0
    assert largest_error(model, Activated()) < 1e-6


@torch.no_grad()
def test_mish_by_a_sigmoid_is_right_from_the_smallest_to_the_largest_numbers():
    model = exported(Activated())
    x = np.concatenate([np.linspace(-40, 40, 99_985), [-3e38, -1e30, -1e4, -200, 0, 200, 1e4, 3e38] * 2])
    x = x.astype(np.float32)[: 99_984 // 16 * 16].reshape(2, 8, -1)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    exact = x * np.tanh(np.logaddexp(0, x.astype(np.float64)))
    # Two units in the last place of x, as Softplus and Tanh in fp32 have them.
    assert (np.abs(found - exact) <= 4e-7 * np.maximum(np.abs(x), 1)).all()


@torch.no_grad()
@pytest.mark.parametrize(("exporter", "opset", "kept"), MISH)
def test_mish_of_a_graph_that_becomes_one_of_16_bits_stays_what_is_kept_in_fp32(exporter, opset, kept):
    assert operators(exported(Activated(), exporter=exporter, opset=opset, fp32=False))[kept] == 1
