"""Blocks that a module repeats are traced once, and the graph is what a trace of all of them gives."""

from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tasks.actions.export_onnx import trace as trace_module
from tasks.actions.export_onnx.repeated_blocks import TracedOnce, repeated_blocks
from tasks.actions.export_onnx.simplify import simplify
from tasks.actions.export_onnx.trace import trace
from tasks.actions.inputs.generated import Padding, make_case, static_sizes
from tasks.actions.original import load_original
from tasks.settings.component import ComponentSpec
from tests.support.generations import MODELS
from tests.support.onnx_jobs import small_component
from tests.support.steps import ESTIMATOR, job_of, steps_of

COMPONENT = ComponentSpec.from_params(small_component("Plain"))
SETTINGS = {"exporter": "dynamo", "opset": 18, "constant_folding": True, "simplify": True, "dynamic_batch": False}


class Block(nn.Module):
    """(B, T, 8) -> (B, T, 8); `sign` is a buffer that differs between blocks."""

    def __init__(self, number: int = 0) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 8, bias=False)
        self.register_buffer("sign", torch.tensor([(-1.0) ** number]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.sign * self.down(torch.relu(self.norm(self.up(x))))


class Net(nn.Module):
    """Calls its blocks one after another."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for weight in self.parameters():
                nn.init.normal_(weight, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for number, block in enumerate(self.blocks):
            x = self.call(block, x, number)
        return x.transpose(1, 2)

    def call(self, block: nn.Module, x: Tensor, number: int) -> Tensor:
        return block(x)


def blocks(kind: type[nn.Module] = Block, count: int = 4) -> list[nn.Module]:
    return [kind(number) for number in range(count)]


class Scaled(Block):
    """Has a number of its own."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.scale = 1.0 + number

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


class WithFlag(Block):
    """Does something else for a flag, for no mask, and for a list with None in it."""

    def forward(self, x: Tensor, mask: Tensor | None = None, *, negative: bool = False) -> Tensor:
        x = super().forward(x)
        x = x if mask is None else x * mask
        return -x if negative else x


class CalledWithFlags(Net):
    def call(self, block: nn.Module, x: Tensor, number: int) -> Tensor:
        return block(x, x[..., :1] if number > 1 else None, negative=number % 2 == 0)


class Comparing(Block):
    """Knows whether it was given one tensor twice."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x if x is y else x - y)


class CalledWithPairs(Net):
    def call(self, block: nn.Module, x: Tensor, number: int) -> Tensor:
        return block(x, x if number % 2 else x.tanh())


class Nested(Block):
    """Returns tensors in a dict and a tuple, and does not read one of those that it is given."""

    def forward(self, x: Tensor, extra: tuple[Tensor, Tensor]) -> dict[str, Any]:
        return {"unread": x.exp(), "pair": (super().forward(x), extra[1])}


class CalledNested(Net):
    def call(self, block: nn.Module, x: Tensor, number: int) -> Tensor:
        first, second = block(x, (x * 2, x * 3))["pair"]
        return first + second


class Remembering(Block):
    """Leaves something behind, which the next call reads."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


class Counting(Block):
    """Leaves something behind in a dict."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.calls = {"so far": 0}

    def forward(self, x: Tensor) -> Tensor:
        self.calls["so far"] += 1
        return super().forward(x) * self.calls["so far"]


class CalledTwice(Net):
    def call(self, block: nn.Module, x: Tensor, number: int) -> Tensor:
        return block(block(x))


class Writing(Block):
    """Writes into a part of its own result."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x) * 2
        y[:, 0] = 1.0
        return y


class ReturningSizes(Block):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return super().forward(x), x.size(1)


class CalledForSizes(Net):
    def call(self, block: nn.Module, x: Tensor, number: int) -> Tensor:
        y, size = block(x)
        return y * (torch.arange(size) % 2).unsqueeze(1)


class Masking(Block):
    """Makes a mask by a size that it is given."""

    def forward(self, x: Tensor, size: int) -> Tensor:
        return super().forward(x) * (torch.arange(x.size(1)) < size - 1).unsqueeze(1)


class CalledWithSizes(Net):
    def call(self, block: nn.Module, x: Tensor, number: int) -> Tensor:
        return block(x, x.size(1))


class WithFunction(Block):
    """Has a function of its own."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.function = lambda x: x * (number + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(super().forward(x))


class Constant(Block):
    """Returns what does not depend on its input."""

    def forward(self, x: Tensor) -> Tensor:
        return self.up.weight.sum() * torch.ones(8)


class CalledForConstants(Net):
    def call(self, block: nn.Module, x: Tensor, number: int) -> Tensor:
        return x + block(x)


def tied() -> Net:
    net = Net(*blocks())
    net.blocks[2].down.weight = net.blocks[1].down.weight
    return net


@pytest.fixture
def tracers(monkeypatch: pytest.MonkeyPatch) -> list[TracedOnce]:
    """Those of all exports of a test."""
    found: list[TracedOnce] = []

    class Noted(TracedOnce):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            found.append(self)

    monkeypatch.setattr(trace_module, "TracedOnce", Noted)
    return found


def exported(module: nn.Module, component: ComponentSpec = COMPONENT, **settings: Any) -> ir.Model:
    model = trace(module.eval(), component=component, settings=SETTINGS | settings)
    simplify(model)
    return model


def weights(model: ir.Model, module: nn.Module) -> set[str]:
    """Names of the weights in a graph that are those of the module."""
    return model.graph.initializers.keys() & module.state_dict().keys()


def outputs(model: ir.Model, inputs: dict[str, Tensor]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    read = {value.name for value in session.get_inputs()}
    return session.run(None, {name: value.numpy() for name, value in inputs.items() if name in read})


def largest_error(model: ir.Model, module: nn.Module) -> float:
    """Relative, with respect to the module, over lengths other than the traced one."""
    errors = []
    for frames in (4, 17, 40):
        x = torch.randn(2, 8, frames, generator=torch.Generator().manual_seed(frames))
        (found,) = outputs(model, {"x": x})
        expected = module(x)
        errors.append(((torch.from_numpy(found) - expected).norm() / expected.norm()).item())
    return max(errors)


@torch.no_grad()
@pytest.mark.parametrize(
    ("module", "spared"),
    [
        (Net(*blocks()), 3),
        (Net(*blocks(Scaled)), 0),
        (Net(Scaled(1), Scaled(2), Scaled(1), Scaled(2), Scaled(3)), 2),
        (CalledWithFlags(*blocks(WithFlag, 6)), 2),  # four different calls
        (CalledWithPairs(*blocks(Comparing)), 2),
        (CalledNested(*blocks(Nested)), 3),
        (CalledForSizes(*blocks(ReturningSizes)), 0),
        (CalledWithSizes(*blocks(Masking)), 3),
        (Net(*blocks(WithFunction)), 0),
        (CalledForConstants(*blocks(Constant)), 3),
        (CalledTwice(*blocks()), 7),
        (Net(*blocks(Writing)), 3),  # placed, but it has to be traced again to undo what is written
        (tied(), 1),
    ],
)
def test_calls_that_are_alike_are_traced_once(tracers, module, spared):
    model = exported(module)
    assert largest_error(model, module) < 1e-6
    assert tracers[0].spared == spared


@torch.no_grad()
@pytest.mark.parametrize("kind", [Remembering, Counting])
def test_a_block_that_leaves_something_behind_is_traced_every_time(tracers, kind):
    module = CalledTwice(*blocks(kind, 2))
    exported(module)
    assert tracers[0].spared == 0


@torch.no_grad()
def test_the_graph_has_the_nodes_weights_and_modules_of_a_full_trace(monkeypatch):
    module = Net(*blocks())
    once = exported(module)
    monkeypatch.setattr(trace_module, "TracedOnce", lambda module, enabled: TracedOnce(module, enabled=False))
    full = exported(module)
    assert [node.op_type for node in once.graph] == [node.op_type for node in full.graph]
    assert weights(once, module) == weights(full, module)
    x = torch.randn(2, 8, 30)
    assert np.array_equal(outputs(once, {"x": x})[0], outputs(full, {"x": x})[0])


@torch.no_grad()
def test_blocks_are_as_before_afterwards():
    module = Net(*blocks())
    exported(module)
    assert all("forward" not in vars(block) for block in module.blocks)


@torch.no_grad()
def test_without_simplification_all_blocks_are_traced(tracers):
    module = Net(*blocks())
    model = trace(module.eval(), component=COMPONENT, settings=SETTINGS | {"simplify": False})
    assert largest_error(model, module) < 1e-6
    assert tracers[0].spared == 0


def test_a_module_that_has_itself_among_its_attributes_is_no_block():
    net = Net(*blocks())
    for block in net.blocks:
        block.parents = [net]
    assert not list(repeated_blocks(net))


@torch.no_grad()
@pytest.mark.parametrize(("model", "name"), [*((model, ESTIMATOR) for model in MODELS), ("cosyvoice2", "flow.encoder")])
def test_published_architectures_are_as_in_a_full_trace(tracers, monkeypatch, model, name):
    job = job_of(steps_of(model, name)["export_onnx"])
    component = ComponentSpec.from_params(job.params["component"])
    module = load_original(job, component)
    once = exported(module, component)
    assert tracers[0].spared > 0
    monkeypatch.setattr(trace_module, "TracedOnce", lambda module, enabled: TracedOnce(module, enabled=False))
    full = exported(module, component)
    assert Counter(node.op_type for node in once.graph) == Counter(node.op_type for node in full.graph)
    assert weights(once, module) == weights(full, module)
    random = torch.Generator().manual_seed(0)
    sizes = component.sizes_at("opt") | static_sizes(module)
    inputs = make_case(component, sizes, padding=Padding.random, random=random).inputs
    for found, expected in zip(outputs(once, inputs), outputs(full, inputs), strict=True):
        assert np.array_equal(found, expected)
