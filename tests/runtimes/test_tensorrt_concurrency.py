"""Many threads share the execution contexts of a plan, and each context serves one caller at a time."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tasks.errors import UserError
from tasks.runtimes.tensorrt_.context_pool import ContextPool
from tests.support.errors import error_of
from tests.support.fake_streams import FakeStreams
from tests.support.onnx_samples import CHANNELS
from tests.support.small_plans import expected_output, load_small_plan, plan_inputs
from tests.support.tensorrt_simulation import Machine


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def streams() -> FakeStreams:
    return FakeStreams()


def test_64_threads_share_4_contexts_and_none_is_lost_or_used_twice(machine, streams, tmp_path):
    engine = load_small_plan(machine, streams, tmp_path, concurrency=4)
    calls = {frames: plan_inputs(frames) for frames in range(4, 61)}
    expected = {frames: _expected_by_hand(inputs) for frames, inputs in calls.items()}

    def work(number: int) -> str:
        generator = random.Random(number)
        outcomes = []
        for _ in range(5):
            frames = generator.randint(4, 60)
            if generator.random() < 0.3:
                outcomes.append(_fail_inside(engine, calls[frames]))
            else:
                outcomes.append(np.allclose(engine(calls[frames])[0], expected[frames], atol=1e-4))
        return "ok" if all(outcomes) else "wrong"

    with ThreadPoolExecutor(64) as threads:
        assert set(threads.map(work, range(64))) == {"ok"}
    assert engine._pool.free == 4
    assert machine.busy_twice == 0


def _fail_inside(engine, inputs) -> bool:
    """A caller that fails while it holds a context, or passes wrong inputs."""
    try:
        with engine.acquire() as run:
            run(inputs)
            if inputs["x"].shape[2] % 2:
                run({**inputs, "x": inputs["x"][:, :, :1]})
            raise ZeroDivisionError
    except (ZeroDivisionError, UserError):
        return True


def _expected_by_hand(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal((CHANNELS, CHANNELS, 3)).astype(np.float32))
    hidden = torch.tanh(torch.nn.functional.conv1d(inputs["x"], weight, padding=1))
    return hidden * inputs["mask"] + inputs["t"][:, None, None]


def test_the_double_sees_a_context_that_is_used_twice_at_once(machine, streams, tmp_path):
    engine = load_small_plan(machine, streams, tmp_path)
    entered, leave = threading.Event(), threading.Event()
    machine.faults.on_launch = lambda: (entered.set(), leave.wait())
    with engine.acquire() as slot, ThreadPoolExecutor(1) as thread:
        first = thread.submit(slot, plan_inputs())
        try:
            assert entered.wait(timeout=300)
            assert "launch" in error_of(slot, plan_inputs()).what
        finally:
            leave.set()
    assert len(first.result()) == 1
    assert machine.busy_twice == 1


def test_a_call_takes_another_context_while_the_first_is_busy(machine, streams, tmp_path):
    engine = load_small_plan(machine, streams, tmp_path, concurrency=2)
    inputs = plan_inputs()
    entered, leave = threading.Event(), threading.Event()
    waits = iter([lambda: (entered.set(), leave.wait()), lambda: None])
    machine.faults.on_launch = lambda: next(waits)()  # noqa: PLW0108  one after the other
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(engine, inputs)
        try:
            assert entered.wait(timeout=300)
            torch.testing.assert_close(engine(inputs)[0], expected_output(inputs))
        finally:
            leave.set()
        torch.testing.assert_close(first.result()[0], expected_output(inputs))
    assert machine.busy_twice == 0


def test_a_borrowed_context_is_returned_after_an_exception():
    pool = ContextPool([1])
    with pytest.raises(KeyboardInterrupt), pool.acquire():
        raise KeyboardInterrupt
    assert pool.free == 1


def test_waiting_for_a_context_ends_with_the_setting_to_raise():
    pool = ContextPool([1])
    with pool.acquire():
        assert "tensorrt.concurrency" in error_of(pool.acquire(timeout=0).__enter__).remedy


def test_a_waiting_caller_gets_the_context_that_is_returned():
    pool = ContextPool(["only"])

    def wait() -> str:
        with pool.acquire() as member:
            return member

    with ThreadPoolExecutor(1) as thread:
        with pool.acquire():
            waiting = thread.submit(wait)
            assert not waiting.done()
        assert waiting.result() == "only"
