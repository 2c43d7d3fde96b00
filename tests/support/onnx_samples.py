"""Small ONNX graphs of the shape of an estimator, made in memory: out = conv(x) * mask + t."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from tasks.settings.component import ComponentSpec

KINDS = {"fp32": (TensorProto.FLOAT, np.float32), "fp16": (TensorProto.FLOAT16, np.float16)}
CHANNELS = 4


def small_estimator(
    *, precision: str = "fp32", batch: int | str = 2, operator: str = "Tanh", opset: int = 18, scale: float = 1.0
) -> onnx.ModelProto:
    """x [batch, 4, frames], mask [batch, 1, frames], t [batch] -> out [batch, 4, frames].

    Args:
        operator: applied to the convolution's output; any name, for tests of what a parser refuses.
        scale: of the convolution's weights.
    """
    kind, dtype = KINDS[precision]
    random = np.random.default_rng(0)
    weight = (random.standard_normal((CHANNELS, CHANNELS, 3)) * scale).astype(dtype)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="/mid/conv/Conv", kernel_shape=[3], pads=[1, 1]),
        helper.make_node(operator, ["h"], ["a"], name=f"/mid/act/{operator}"),
        helper.make_node("Mul", ["a", "mask"], ["m"], name="/Mul"),
        helper.make_node("Reshape", ["t", "column"], ["c"], name="/Reshape"),
        helper.make_node("Add", ["m", "c"], ["out"], name="/Add"),
    ]
    inputs = {"x": [batch, CHANNELS, "frames"], "mask": [batch, 1, "frames"], "t": [batch]}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("out", kind, [batch, CHANNELS, "frames"])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.array([-1, 1, 1], dtype=np.int64), "column"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def component(*, batch_max: int = 2) -> dict:
    """The declaration of the module that `small_estimator` stands for."""
    return {
        "name": "small.estimator",
        "part": "small",
        "loader": "tests.support.onnx_samples:load_component",
        "options": {},
        "inputs": {
            "x": {"shape": ["batch", CHANNELS, "frames"]},
            "mask": {"shape": ["batch", 1, "frames"], "kind": "mask"},
            "t": {"shape": ["batch"], "kind": "time"},
        },
        "outputs": {"out": ["batch", CHANNELS, "frames"]},
        "axes": {
            "frames": {"min": 4, "opt": 50, "max": 300},
            "batch": {"min": 2, "opt": 2, "max": batch_max, "multiple_of": 2, "dynamic": False},
        },
    }


class SmallEstimator(torch.nn.Module):
    """The module that `small_estimator` stands for."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(torch.nn.functional.conv1d(x, self.weight, padding=1))
        return hidden * mask + t[:, None, None]


def load_component(component: ComponentSpec, *, config: Path, weights: Path) -> torch.nn.Module:
    """A loader: the module with the weights of `small_estimator`, doubled if the config's text says so."""
    weight = torch.from_numpy(numpy_helper.to_array(small_estimator().graph.initializer[0]).copy())
    return SmallEstimator(weight * 2 if "doubled" in config.read_text() else weight).eval()
