"""A plan is called with the arguments of the module that it replaces."""

import pytest
import torch

from tasks.runtimes.tensorrt_.drop_in import PlanModule
from tests.support.errors import error_of
from tests.support.fake_streams import FakeStreams
from tests.support.small_plans import expected_output, load_small_plan, plan_inputs
from tests.support.tensorrt_simulation import Machine


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def streams() -> FakeStreams:
    return FakeStreams()


def test_the_module_takes_the_originals_arguments(machine, streams, tmp_path):
    module = PlanModule(load_small_plan(machine, streams, tmp_path, precision="fp16"), constants={"streaming": False})
    inputs = plan_inputs()
    expected = expected_output(inputs)
    for out in (
        module(*inputs.values()),
        module(inputs["x"], inputs["mask"], t=inputs["t"], streaming=False),
        module(*inputs.values(), False),
    ):
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, expected, rtol=1e-2, atol=1e-2)


def test_a_constant_of_the_export_cannot_be_changed(machine, streams, tmp_path):
    module = PlanModule(load_small_plan(machine, streams, tmp_path), constants={"streaming": False})
    error = error_of(module, *plan_inputs().values(), streaming=True)
    assert error.where == "streaming"
    assert "streaming=False" in error.what


def test_an_argument_that_is_not_a_tensor_is_named(machine, streams, tmp_path):
    module = PlanModule(load_small_plan(machine, streams, tmp_path))
    assert error_of(module, **{**plan_inputs(), "mask": None}).value == {"mask": "NoneType"}


def test_an_argument_given_twice_is_rejected(machine, streams, tmp_path):
    inputs = plan_inputs()
    module = PlanModule(load_small_plan(machine, streams, tmp_path))
    assert error_of(module, *inputs.values(), x=inputs["x"]).value == ["x"]
