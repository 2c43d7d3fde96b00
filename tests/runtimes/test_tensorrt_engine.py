"""A plan runs on named tensors within its profiles, from many threads, without ever blocking the host."""

import pytest
import torch

from tasks.runtimes.tensorrt_.engine import load_engine
from tasks.runtimes.tensorrt_.interface import label
from tasks.runtimes.tensorrt_.streams import CudaStreams
from tests.support.errors import error_of
from tests.support.fake_streams import FakeStreams
from tests.support.onnx_samples import CHANNELS
from tests.support.small_plans import PROFILE, expected_output, load_small_plan, plan_inputs
from tests.support.tensorrt_double import VERSIONS
from tests.support.tensorrt_simulation import Machine

LONG = {
    "x": [[2, CHANNELS, 300], [2, CHANNELS, 500], [2, CHANNELS, 900]],
    "mask": [[2, 1, 300], [2, 1, 500], [2, 1, 900]],
}


both_versions = pytest.mark.parametrize("machine", VERSIONS, indirect=True)  # where TensorRT's interface differs


@pytest.fixture
def machine(request) -> Machine:
    return Machine(getattr(request, "param", VERSIONS[0]))


@pytest.fixture
def streams() -> FakeStreams:
    return FakeStreams()


@both_versions
def test_a_plan_computes_what_its_graph_does(machine, streams, tmp_path):
    inputs = plan_inputs()
    (out,) = load_small_plan(machine, streams, tmp_path)(inputs)
    torch.testing.assert_close(out, expected_output(inputs))


def test_inputs_are_bound_by_name_whatever_their_order(machine, streams, tmp_path):
    inputs = plan_inputs()
    (out,) = load_small_plan(machine, streams, tmp_path)(dict(reversed(inputs.items())))
    torch.testing.assert_close(out, expected_output(inputs))


@both_versions
def test_the_provider_names_tensorrt_and_the_gpu(machine, streams, tmp_path):
    assert load_small_plan(machine, streams, tmp_path).provider == f"TensorRT {machine.trt.__version__} on Fake GPU"


def test_shapes_have_fixed_sizes_and_none_for_dynamic_ones(machine, streams, tmp_path):
    shapes = load_small_plan(machine, streams, tmp_path).shapes
    assert shapes == {"x": (2, CHANNELS, None), "mask": (2, 1, None), "t": (2,)}


def test_inputs_are_made_contiguous_and_of_the_plans_type(machine, streams, tmp_path):
    inputs = plan_inputs()
    given = {**inputs, "x": inputs["x"].double().transpose(1, 2).contiguous().transpose(1, 2)}
    (out,) = load_small_plan(machine, streams, tmp_path)(given)
    torch.testing.assert_close(out, expected_output(inputs))


def test_the_outputs_of_a_half_precision_plan_are_half_precision(machine, streams, tmp_path):
    inputs = plan_inputs()
    (out,) = load_small_plan(machine, streams, tmp_path, precision="fp16")(inputs)
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), expected_output(inputs), rtol=1e-2, atol=1e-2)


def test_streams_wait_for_each_other_and_the_host_for_none(machine, streams, tmp_path):
    engine = load_small_plan(machine, streams, tmp_path)
    inputs = plan_inputs()
    (out,) = engine(inputs)
    own, caller = streams.made[0], streams.current()
    assert own.waited_for == [caller.cuda_stream]
    assert caller.waited_for == [own.cuda_stream]
    assert {address for address, _ in streams.recorded} == {t.data_ptr() for t in (*inputs.values(), out)}


def test_the_launch_waits_for_the_callers_work_and_the_caller_for_the_launch(machine, streams, tmp_path):
    engine = load_small_plan(machine, streams, tmp_path)
    order: list[str] = []
    own, caller = streams.made[0], streams.current()
    own.wait_stream = lambda other: order.append("plan waits")  # type: ignore[method-assign]
    caller.wait_stream = lambda other: order.append("caller waits")  # type: ignore[method-assign]
    launch = machine.bindings.behaviours["IExecutionContext.execute_async_v3"]
    machine.bindings.behaviours["IExecutionContext.execute_async_v3"] = lambda *a: (order.append("launch"), launch(*a))[
        1
    ]
    engine(plan_inputs())
    assert order == ["plan waits", "launch", "caller waits"]


@pytest.mark.parametrize(("frames", "bound"), [(3, "minimum 4"), (301, "maximum 300")])
def test_sizes_outside_the_profile_are_rejected_before_anything_is_launched(machine, streams, tmp_path, frames, bound):
    engine = load_small_plan(machine, streams, tmp_path)
    value = error_of(engine, plan_inputs(frames)).value
    assert f"x has {frames} frames in dimension 2" in value
    assert f"{bound} of tensorrt.profile.frames" in value
    assert "IExecutionContext.set_input_shape" not in machine.bindings.names()


def test_a_static_size_and_a_rank_are_checked_too(machine, streams, tmp_path):
    engine = load_small_plan(machine, streams, tmp_path)
    value = error_of(engine, {**plan_inputs(), "t": torch.zeros(3)}).value
    assert "t has 3 in dimension 0" in value
    assert "onnx.dynamic_batch=true" in value
    assert "x has 2 dimensions" in error_of(engine, {**plan_inputs(), "x": torch.zeros(2, 20)}).value


def test_inputs_that_disagree_about_an_axis_are_rejected_before_anything_is_launched(machine, streams, tmp_path):
    engine = load_small_plan(machine, streams, tmp_path)
    error = error_of(engine, {**plan_inputs(20), "mask": torch.ones(2, 1, 30)})
    assert error.value == "frames is 20 in x and 30 in mask"
    assert "IExecutionContext.set_input_shape" not in machine.bindings.names()


def test_sizes_that_tensorrt_finds_contradictory_are_an_error_with_its_message(machine, streams, tmp_path):
    def contradict(this):
        this._set["logger"].log(type(this._set["logger"]).Severity.ERROR, "IShuffleLayer view: reshaping failed")
        raise RuntimeError("infer_shapes error code: -1")

    machine.bindings.behaviours["IExecutionContext.infer_shapes"] = contradict
    error = error_of(load_small_plan(machine, streams, tmp_path), plan_inputs())
    assert "inference of output shapes" in error.what
    assert error.value == "IShuffleLayer view: reshaping failed"


def test_an_axis_of_one_size_in_the_profile_is_named_with_its_bound(machine, streams, tmp_path):
    fixed = {name: [shape[1]] * 3 for name, shape in PROFILE.items()}
    error = error_of(load_small_plan(machine, streams, tmp_path, profiles=(fixed,)), plan_inputs(51))
    assert "maximum 50 of tensorrt.profile.frames" in error.value


def test_errors_of_a_plan_without_a_label_name_dimension_and_bound(machine, streams, tmp_path):
    value = error_of(load_small_plan(machine, streams, tmp_path, name="Unnamed Network 0"), plan_inputs(301)).value
    assert "x has 301" in value
    assert "dimension 2" in value
    assert "maximum 300" in value


def test_a_label_that_grows_too_long_leaves_axes_out():
    text = label("part", {f"input{i}": ["batch", "frames"] if i else ["frames"] for i in range(12)})
    assert text.startswith("part frames:input0.0,input1.1")
    assert len(text) <= 128
    assert "batch" not in text
    assert label("p" * 200, {"x": ["frames"]}) == ""


def test_missing_and_unknown_inputs_are_named(machine, streams, tmp_path):
    inputs = plan_inputs()
    inputs["spks"] = inputs.pop("t")
    error = error_of(load_small_plan(machine, streams, tmp_path), inputs)
    assert error.value == ["mask", "spks", "x"]
    assert "x, mask, t" in error.remedy


@both_versions
def test_the_profile_that_fits_is_used_and_switched_on_the_contexts_stream(machine, streams, tmp_path):
    engine = load_small_plan(machine, streams, tmp_path, profiles=(PROFILE, LONG))
    for frames in (20, 600, 700, 30):
        inputs = plan_inputs(frames)
        torch.testing.assert_close(engine(inputs)[0], expected_output(inputs))
    stream = streams.made[0].cuda_stream
    assert machine.bindings.arguments("IExecutionContext.set_optimization_profile_async") == [(1, stream), (0, stream)]


def test_a_call_that_fits_no_profile_lists_the_bound_of_each(machine, streams, tmp_path):
    first, second = error_of(
        load_small_plan(machine, streams, tmp_path, profiles=(PROFILE, LONG)), plan_inputs(901)
    ).value.split("; ")
    assert "300 of tensorrt.profiles[0].frames" in first
    assert "900 of tensorrt.profiles[1].frames" in second


def test_a_launch_that_fails_is_an_error_with_tensorrts_message(machine, streams, tmp_path):
    machine.faults.launch = True
    error = error_of(load_small_plan(machine, streams, tmp_path), plan_inputs())
    assert "launch" in error.what
    assert "illegal memory access" in error.value
    assert streams.current().waited_for  # what was launched before the failure still precedes the caller's work


def test_each_context_has_its_own_stream(machine, streams, tmp_path):
    load_small_plan(machine, streams, tmp_path, concurrency=3)
    assert len(streams.made) == 3


@both_versions
def test_too_little_memory_for_the_contexts_reports_how_many_fit(machine, streams, tmp_path):
    machine.faults.contexts_that_fit = 2
    error = error_of(load_small_plan, machine, streams, tmp_path, concurrency=4)
    assert "2 of 4" in error.what
    assert "3 MiB" in error.value
    assert "OutOfMemory" in error.value
    assert error.remedy == "Set tensorrt.concurrency=2"


def test_no_memory_for_even_one_context_has_another_remedy(machine, streams, tmp_path):
    machine.faults.contexts_that_fit = 0
    error = error_of(load_small_plan, machine, streams, tmp_path)
    assert "0 of 1" in error.what
    assert "tensorrt.concurrency" not in error.remedy


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ({"capability": "8.9"}, ("another GPU", "expecting compute 9.0 got compute 8.9")),
        ({"version": "9.1.0"}, ("another TensorRT", "Version tag does not match")),
        ({"compatible": True}, ("tensorrt.version_compatible", "host code")),
    ],
)
def test_a_plan_that_does_not_belong_here_has_the_cause_in_its_error(machine, streams, tmp_path, head, expected):
    error = error_of(load_small_plan, machine, streams, tmp_path, **head)
    assert error.where == str(tmp_path / "a.plan")
    cause, message = expected
    assert cause in error.what
    assert message in error.value


def test_a_truncated_plan_is_rejected(machine, streams, tmp_path):
    path = tmp_path / "b.plan"
    path.write_bytes(b"")
    error = error_of(load_engine, path, trt=machine.trt, streams=streams)
    assert "truncated" in error.what
    assert "doit export_plan" in error.remedy


@pytest.mark.parametrize(
    "message",
    [
        "Serialization assertion sizeRead == static_cast<uint64_t>(mEnd - mCurrent) failed.Size specified in header "
        "does not match archive size",
        "Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.",
    ],
)
def test_a_truncated_plan_is_recognised_by_each_of_tensorrts_messages(machine, streams, tmp_path, message):
    def reject(this, plan):
        this._set["logger"].log(type(this._set["logger"]).Severity.ERROR, message)

    machine.bindings.behaviours["Runtime.deserialize_cuda_engine"] = reject
    assert "truncated" in error_of(load_small_plan, machine, streams, tmp_path).what


def test_a_plan_that_does_not_exist_is_named(machine, streams, tmp_path):
    error = error_of(load_engine, tmp_path / "nowhere.plan", trt=machine.trt, streams=streams)
    assert error.where == str(tmp_path / "nowhere.plan")


def test_zero_contexts_are_rejected_instead_of_waited_for(machine, streams, tmp_path):
    error = error_of(load_small_plan, machine, streams, tmp_path, concurrency=0)
    assert (error.where, error.value) == ("tensorrt.concurrency", 0)


def test_a_gpu_that_does_not_exist_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    error = error_of(CudaStreams, "cuda:7")
    assert (error.where, error.value) == ("cuda:7", "2 GPUs")


def test_a_driver_that_does_not_start_is_named(machine, streams, tmp_path):
    machine.faults.cuda = True
    error = error_of(load_small_plan, machine, streams, tmp_path)
    assert "error: 35" in error.value
    assert "driver" in error.remedy


@both_versions
def test_context_memory_is_reported_per_profile(machine, streams, tmp_path):
    assert len(load_small_plan(machine, streams, tmp_path, profiles=(PROFILE, LONG)).context_memory()) == 2
