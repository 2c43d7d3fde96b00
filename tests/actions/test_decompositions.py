"""What the dynamo exporter need not decompose, and that graphs compute the same either way."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from tasks.actions.export_onnx import decompositions
from tasks.actions.export_onnx.simplify import simplify
from tasks.actions.export_onnx.trace import trace
from tasks.settings.component import ComponentSpec
from tests.support.onnx_jobs import small_component

COMPONENT = ComponentSpec.from_params(small_component("Plain"))
SETTINGS = {"opset": 18, "constant_folding": True, "simplify": True, "dynamic_batch": False}


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Upsampling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.ConvTranspose1d(8, 16, 4, stride=2, padding=1, groups=2, dilation=1)
        self.same = nn.ConvTranspose1d(16, 8, 3, stride=2, padding=2, output_padding=1, dilation=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.same(self.up(x))[:, :, : x.size(2)]


def written(x: Tensor) -> Tensor:
    x = x * 2
    x[:, 0] = 1.0
    return x


def decides_by_position(x: Tensor) -> Tensor:
    odd = torch.arange(x.size(2)) % 2 == 1
    return x * ((odd & (x > 0)) | (x < -1)).to(torch.float32)


@pytest.fixture
def decompositions_run(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """An entry for every time that a program is traced again."""
    found: list[bool] = []
    original = ExportedProgram.run_decompositions

    def counted(program: ExportedProgram, *args: object, **kwargs: object) -> ExportedProgram:
        found.append(True)
        return original(program, *args, **kwargs)

    monkeypatch.setattr(ExportedProgram, "run_decompositions", counted)
    return found


def exported(module: nn.Module, *, exporter: str = "dynamo") -> ir.Model:
    model = trace(module.eval(), component=COMPONENT, settings=SETTINGS | {"exporter": exporter})
    simplify(model)
    return model


def largest_error(model: ir.Model, module: nn.Module) -> float:
    """With respect to the module, over lengths other than the traced one."""
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    errors = []
    for frames in (4, 17, 40):
        x = torch.randn(2, 8, frames, generator=torch.Generator().manual_seed(frames))
        (found,) = session.run(None, {"x": x.numpy()})
        errors.append((torch.from_numpy(found) - module(x)).abs().max().item())
    return max(errors)


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


@torch.no_grad()
@pytest.mark.parametrize(
    ("module", "times"),
    [
        (Function(decides_by_position), 0),  # &, | and a conversion
        (Function(lambda x: 1.5 - x), 0),
        (Function(lambda x: torch.rsub(x, 3.0, alpha=2.0)), 0),
        (Function(lambda x: x.unflatten(1, (2, 4)).flatten(1, 2)), 0),
        (Function(lambda x: x.transpose(1, 2).flatten(0, 1).unflatten(0, (2, -1)).transpose(1, 2)), 0),
        (Function(lambda x: x.flatten().reshape(x.shape)), 0),
        (Upsampling(), 0),
        (Function(written), 1),
        (Function(lambda x: x.square()), 1),  # which has neither a translation nor an equivalent
    ],
)
def test_a_graph_is_traced_again_only_where_that_is_needed(module, times, decompositions_run):
    model = exported(module)
    assert largest_error(model, module) < 1e-6
    assert len(decompositions_run) == times


@torch.no_grad()
def test_what_has_no_translation_after_all_is_decomposed(monkeypatch, decompositions_run):
    """As a conversion of dtypes would be without its equivalent, which the table does not show."""
    monkeypatch.delitem(decompositions._EQUIVALENTS, torch.ops.aten.to.dtype)
    module = Function(decides_by_position)
    assert largest_error(exported(module), module) < 1e-6
    assert len(decompositions_run) == 1


def test_afterwards_programs_are_decomposed_as_before():
    original = ExportedProgram.run_decompositions
    with decompositions.FewestDecompositions():
        assert ExportedProgram.run_decompositions is not original
    assert ExportedProgram.run_decompositions is original


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
