"""What the dynamo exporter need not decompose, and that graphs compute the same either way."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from tasks.actions.export_onnx import decompositions
from tests.support.small_graphs import exported, largest_error


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
