"""A plan runs on named tensors within its profiles, from many threads, without ever waiting on the host."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
import torch

from tasks.errors import UserError
from tasks.runtimes.tensorrt_.context_pool import ContextPool
from tasks.runtimes.tensorrt_.drop_in import PlanModule
from tasks.runtimes.tensorrt_.engine import load_engine
from tasks.runtimes.tensorrt_.interface import label
from tasks.runtimes.tensorrt_.streams import CudaStreams
from tests.support.fake_streams import FakeStreams
from tests.support.onnx_samples import CHANNELS, component, small_estimator
from tests.support.tensorrt_double import VERSIONS
from tests.support.tensorrt_simulation import Machine, write_plan

PROFILE = {"x": [[2, CHANNELS, 4], [2, CHANNELS, 50], [2, CHANNELS, 300]], "mask": [[2, 1, 4], [2, 1, 50], [2, 1, 300]]}
TOLD_OF_BOTH = r"profile 0: .* 300 of tensorrt.profiles\[0\].frames; profile 1: .* 900 of tensorrt.profiles\[1\].frames"
LONG = {
    "x": [[2, CHANNELS, 300], [2, CHANNELS, 500], [2, CHANNELS, 900]],
    "mask": [[2, 1, 300], [2, 1, 500], [2, 1, 900]],
}


@pytest.fixture(params=VERSIONS)
def machine(request) -> Machine:
    return Machine(request.param)


@pytest.fixture
def streams() -> FakeStreams:
    return FakeStreams()


def _load(machine, streams, tmp_path, *, precision="fp32", profiles=(PROFILE,), concurrency=1, **head):
    axes = {name: tensor["shape"] for name, tensor in component()["inputs"].items()}
    head = {"name": label("small.estimator", axes)} | head
    path = write_plan(machine, tmp_path / "a.plan", small_estimator(precision=precision), profiles=[*profiles], **head)
    return load_engine(path, trt=machine.trt, streams=streams, concurrency=concurrency)


def _inputs(frames: int = 20, *, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {
        "x": torch.randn(2, CHANNELS, frames, dtype=dtype),
        "mask": torch.ones(2, 1, frames, dtype=dtype),
        "t": torch.tensor([0.3, 0.3], dtype=dtype),
    }


def _expected(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    session = onnxruntime.InferenceSession(small_estimator().SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0])


def test_a_plan_gives_what_its_graph_computes(machine, streams, tmp_path):
    inputs = _inputs()
    (out,) = _load(machine, streams, tmp_path)(inputs)
    torch.testing.assert_close(out, _expected(inputs))


def test_inputs_are_bound_by_name_whatever_their_order(machine, streams, tmp_path):
    inputs = _inputs()
    (out,) = _load(machine, streams, tmp_path)(dict(reversed(inputs.items())))
    torch.testing.assert_close(out, _expected(inputs))


def test_the_provider_names_tensorrt_and_the_gpu(machine, streams, tmp_path):
    assert _load(machine, streams, tmp_path).provider == f"TensorRT {machine.trt.__version__} on Fake GPU"


def test_fixed_sizes_are_told_and_dynamic_ones_left_open(machine, streams, tmp_path):
    shapes = _load(machine, streams, tmp_path).shapes
    assert shapes == {"x": (2, CHANNELS, None), "mask": (2, 1, None), "t": (2,)}


def test_inputs_are_made_contiguous_and_of_the_plans_type(machine, streams, tmp_path):
    inputs = _inputs()
    given = {**inputs, "x": inputs["x"].double().transpose(1, 2).contiguous().transpose(1, 2)}
    (out,) = _load(machine, streams, tmp_path)(given)
    torch.testing.assert_close(out, _expected(inputs))


def test_a_half_precision_plan_gives_half_precision(machine, streams, tmp_path):
    inputs = _inputs()
    (out,) = _load(machine, streams, tmp_path, precision="fp16")(inputs)
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), _expected(inputs), rtol=1e-2, atol=1e-2)


def test_streams_wait_for_each_other_and_the_host_for_none(machine, streams, tmp_path):
    engine = _load(machine, streams, tmp_path)
    inputs = _inputs()
    (out,) = engine(inputs)
    own, caller = streams.made[0], streams.current()
    assert own.waited_for == [caller.cuda_stream]
    assert caller.waited_for == [own.cuda_stream]
    assert {address for address, _ in streams.recorded} == {t.data_ptr() for t in (*inputs.values(), out)}


def test_the_launch_waits_for_the_callers_work_and_the_caller_for_the_launch(machine, streams, tmp_path):
    engine = _load(machine, streams, tmp_path)
    order: list[str] = []
    own, caller = streams.made[0], streams.current()
    own.wait_stream = lambda other: order.append("plan waits")  # type: ignore[method-assign]
    caller.wait_stream = lambda other: order.append("caller waits")  # type: ignore[method-assign]
    launch = machine.bindings.behaviours["IExecutionContext.execute_async_v3"]
    machine.bindings.behaviours["IExecutionContext.execute_async_v3"] = lambda *a: (order.append("launch"), launch(*a))[
        1
    ]
    engine(_inputs())
    assert order == ["plan waits", "launch", "caller waits"]


@pytest.mark.parametrize(("frames", "bound"), [(3, "below the minimum 4"), (301, "above the maximum 300")])
def test_sizes_outside_the_profile_are_refused_before_anything_is_launched(machine, streams, tmp_path, frames, bound):
    engine = _load(machine, streams, tmp_path)
    with pytest.raises(UserError, match=f"{frames} frames in dimension 2, {bound} of tensorrt.profile.frames"):
        engine(_inputs(frames))
    assert "IExecutionContext.set_input_shape" not in machine.bindings.names()


def test_a_static_size_and_a_rank_are_checked_too(machine, streams, tmp_path):
    engine = _load(machine, streams, tmp_path)
    with pytest.raises(UserError, match=r"t has 3 in dimension 0 where the plan has 2, .*onnx.dynamic_batch=true"):
        engine({**_inputs(), "t": torch.zeros(3)})
    with pytest.raises(UserError, match="x has 2 dimensions instead of 3"):
        engine({**_inputs(), "x": torch.zeros(2, 20)})


def test_inputs_that_disagree_about_an_axis_are_refused_before_anything_is_launched(machine, streams, tmp_path):
    engine = _load(machine, streams, tmp_path)
    with pytest.raises(UserError, match=r"sizes do not go together .*frames is 20 in x and 30 in mask"):
        engine({**_inputs(20), "mask": torch.ones(2, 1, 30)})
    assert "IExecutionContext.set_input_shape" not in machine.bindings.names()


def test_sizes_that_tensorrt_finds_contradictory_are_an_error_with_its_words(machine, streams, tmp_path):
    def contradict(this):
        this._set["logger"].log(type(this._set["logger"]).Severity.ERROR, "IShuffleLayer view: reshaping failed")
        raise RuntimeError("infer_shapes error code: -1")

    machine.bindings.behaviours["IExecutionContext.infer_shapes"] = contradict
    with pytest.raises(UserError, match=r"inference of output shapes was refused .*reshaping failed"):
        _load(machine, streams, tmp_path)(_inputs())


def test_an_axis_of_one_size_in_the_profile_is_told_by_its_bound(machine, streams, tmp_path):
    fixed = {name: [shape[1]] * 3 for name, shape in PROFILE.items()}
    with pytest.raises(UserError, match=r"51 frames in dimension 2, above the maximum 50 of tensorrt.profile.frames"):
        _load(machine, streams, tmp_path, profiles=(fixed,))(_inputs(51))


def test_what_is_no_tensor_is_refused(machine, streams, tmp_path):
    with pytest.raises(UserError, match=r"takes tensors only \(got \{'mask': 'NoneType'\}\)"):
        PlanModule(_load(machine, streams, tmp_path))(**{**_inputs(), "mask": None})


def test_an_argument_given_twice_is_refused(machine, streams, tmp_path):
    inputs = _inputs()
    with pytest.raises(UserError, match=r"given twice, by place and by name \(got \['x'\]\)"):
        PlanModule(_load(machine, streams, tmp_path))(*inputs.values(), x=inputs["x"])


def test_a_plan_without_our_label_still_names_dimension_and_bound(machine, streams, tmp_path):
    engine = _load(machine, streams, tmp_path, name="Unnamed Network 0")
    with pytest.raises(UserError, match="x has 301 elements in dimension 2, above the maximum 300"):
        engine(_inputs(301))


def test_a_label_that_grows_too_long_leaves_axes_out():
    text = label("part", {f"input{i}": ["batch", "frames"] if i else ["frames"] for i in range(12)})
    assert text.startswith("part frames:input0.0,input1.1")
    assert len(text) <= 128
    assert "batch" not in text
    assert label("p" * 200, {"x": ["frames"]}) == ""


def test_missing_and_unknown_inputs_are_named(machine, streams, tmp_path):
    inputs = _inputs()
    inputs["spks"] = inputs.pop("t")
    with pytest.raises(UserError, match=r"wrong inputs for the plan \(got \['mask', 'spks', 'x'\]\)"):
        _load(machine, streams, tmp_path)(inputs)


def test_the_profile_that_fits_is_used_and_switched_on_the_contexts_stream(machine, streams, tmp_path):
    engine = _load(machine, streams, tmp_path, profiles=(PROFILE, LONG))
    for frames in (20, 600, 700, 30):
        inputs = _inputs(frames)
        torch.testing.assert_close(engine(inputs)[0], _expected(inputs))
    stream = streams.made[0].cuda_stream
    assert machine.bindings.arguments("IExecutionContext.set_optimization_profile_async") == [(1, stream), (0, stream)]


def test_a_call_that_fits_no_profile_is_told_about_each(machine, streams, tmp_path):
    with pytest.raises(UserError, match=TOLD_OF_BOTH):
        _load(machine, streams, tmp_path, profiles=(PROFILE, LONG))(_inputs(901))


def test_a_launch_that_fails_is_an_error_with_tensorrts_words(machine, streams, tmp_path):
    machine.faults.launch = True
    engine = _load(machine, streams, tmp_path)
    with pytest.raises(UserError, match=r"launch was refused .*illegal memory access"):
        engine(_inputs())
    assert streams.current().waited_for  # what was launched before the failure still precedes the caller's work


def test_each_context_has_its_own_stream(machine, streams, tmp_path):
    _load(machine, streams, tmp_path, concurrency=3)
    assert len(streams.made) == 3


def test_too_little_memory_for_the_contexts_says_how_many_fit(machine, streams, tmp_path):
    machine.faults.contexts_that_fit = 2
    with pytest.raises(UserError, match=r"only 2 of 4 .*3 MiB each; .*OutOfMemory.*Set tensorrt.concurrency=2"):
        _load(machine, streams, tmp_path, concurrency=4)


def test_no_memory_for_even_one_context_has_another_remedy(machine, streams, tmp_path):
    machine.faults.contexts_that_fit = 0
    with pytest.raises(UserError, match=r"only 0 of 1 .*Free GPU memory"):
        _load(machine, streams, tmp_path)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"capability": "8.9"}, "it was built for another GPU .*expecting compute 9.0 got compute 8.9"),
        ({"version": "9.1.0"}, "it was built by another TensorRT .*Version tag does not match"),
        ({"compatible": True}, "carries code for the host .*allow_host_code=True"),
    ],
)
def test_a_plan_that_does_not_belong_here_says_why(machine, streams, tmp_path, head, message):
    with pytest.raises(UserError, match=message):
        _load(machine, streams, tmp_path, **head)


def test_a_truncated_plan_is_refused(machine, streams, tmp_path):
    path = tmp_path / "b.plan"
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"truncated or no plan at all .*Build the plan on this machine"):
        load_engine(path, trt=machine.trt, streams=streams)


@pytest.mark.parametrize(
    "words",
    [
        "Serialization assertion sizeRead == static_cast<uint64_t>(mEnd - mCurrent) failed.Size specified in header "
        "does not match archive size",
        "Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.",
    ],
)
def test_a_plan_cut_short_is_recognised_by_each_of_tensorrts_wordings(machine, streams, tmp_path, words):
    def refuse(this, plan):
        this._set["logger"].log(type(this._set["logger"]).Severity.ERROR, words)

    machine.bindings.behaviours["Runtime.deserialize_cuda_engine"] = refuse
    with pytest.raises(UserError, match="it is truncated or no plan at all"):
        _load(machine, streams, tmp_path)


def test_a_plan_that_is_not_there_is_named(machine, streams, tmp_path):
    with pytest.raises(UserError, match=r"nowhere.plan: the plan cannot be read .*doit export_plan"):
        load_engine(tmp_path / "nowhere.plan", trt=machine.trt, streams=streams)


def test_no_contexts_at_all_are_refused_instead_of_waited_for(machine, streams, tmp_path):
    with pytest.raises(UserError, match=r"tensorrt.concurrency: a plan runs in 1 context or more"):
        _load(machine, streams, tmp_path, concurrency=0)


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"cuda:7: no such GPU .*2 GPUs"):
        CudaStreams("cuda:7")


def test_a_driver_that_does_not_start_is_named(machine, streams, tmp_path):
    machine.faults.cuda = True
    with pytest.raises(UserError, match=r"CUDA does not start for TensorRT.*error: 35"):
        _load(machine, streams, tmp_path)


def test_context_memory_is_told_per_profile(machine, streams, tmp_path):
    assert len(_load(machine, streams, tmp_path, profiles=(PROFILE, LONG)).context_memory()) == 2


def test_the_module_takes_the_originals_arguments(machine, streams, tmp_path):
    module = PlanModule(_load(machine, streams, tmp_path, precision="fp16"), constants={"streaming": False})
    inputs = _inputs()
    expected = _expected(inputs)
    for out in (
        module(*inputs.values()),
        module(inputs["x"], inputs["mask"], t=inputs["t"], streaming=False),
        module(*inputs.values(), False),
    ):
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, expected, rtol=1e-2, atol=1e-2)


def test_a_constant_of_the_export_cannot_be_changed(machine, streams, tmp_path):
    module = PlanModule(_load(machine, streams, tmp_path), constants={"streaming": False})
    with pytest.raises(UserError, match="exported with streaming=False"):
        module(*_inputs().values(), streaming=True)


def test_64_threads_share_4_contexts_and_none_is_lost_or_used_twice(machine, streams, tmp_path):
    engine = _load(machine, streams, tmp_path, concurrency=4)

    def work(number: int) -> str:
        generator = random.Random(number)
        outcomes = []
        for _ in range(5):
            inputs = _inputs(generator.randint(4, 60))
            if generator.random() < 0.3:
                outcomes.append(_fail_inside(engine, inputs))
            else:
                outcomes.append(np.allclose(engine(inputs)[0], _expected_by_hand(inputs), atol=1e-4))
        return "ok" if all(outcomes) else "wrong"

    with ThreadPoolExecutor(64) as threads:
        assert set(threads.map(work, range(64))) == {"ok"}
    assert engine._pool.free == 4
    assert machine.busy_twice == 0


def _fail_inside(engine, inputs) -> bool:
    """A caller that dies while it holds a context, or sends nonsense."""
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
    engine = _load(machine, streams, tmp_path)
    with engine.acquire() as slot, ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(slot, _inputs()) for _ in range(40)]
    assert machine.busy_twice == sum(future.exception() is not None for future in futures) > 0


def test_a_borrowed_context_comes_back_after_an_exception():
    pool = ContextPool([1])
    with pytest.raises(KeyboardInterrupt), pool.acquire():
        raise KeyboardInterrupt
    assert pool.free == 1


def test_whoever_waits_too_long_is_told_what_to_do():
    pool = ContextPool([1])
    with pool.acquire(), pytest.raises(UserError, match=r"every execution context is in use .*tensorrt.concurrency"):
        pool._take(0.01)


def test_a_waiting_caller_gets_the_context_that_is_given_back():
    pool, got = ContextPool(["only"]), []

    def wait() -> None:
        with pool.acquire(timeout=5) as member:
            got.append(member)

    with pool.acquire():
        thread = threading.Thread(target=wait)
        thread.start()
        assert got == []
    thread.join()
    assert got == ["only"]
