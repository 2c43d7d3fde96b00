"""A plan is built as requested on TensorRT 10 and 11; what cannot be built is an error and leaves no file."""

import weakref

import onnx
import pytest

from tasks.actions.build_plan.action import run
from tasks.errors import UserError
from tasks.machine.gpus import gpus
from tasks.runtimes.tensorrt_.engine import load_engine
from tests.support.errors import error_of
from tests.support.fake_streams import FakeStreams
from tests.support.onnx_samples import CHANNELS, component, small_estimator
from tests.support.plan_jobs import build, plan_job, rejection
from tests.support.tensorrt_double import VERSIONS
from tests.support.tensorrt_simulation import Machine

both_versions = pytest.mark.parametrize("machine", VERSIONS, indirect=True)  # where TensorRT's interface differs


@pytest.fixture
def machine(request) -> Machine:
    return Machine(getattr(request, "param", VERSIONS[0]))


@both_versions
def test_the_plan_is_written_and_its_facts_are_reported(machine, tmp_path):
    job = plan_job(tmp_path)
    facts = build(machine, job)
    assert job.outputs["plan"].stat().st_size > 0
    assert facts["gpu"] == "NVIDIA H200"
    assert facts["compute_capability"] == "9.0"
    assert facts["driver"] == "580.65.06"
    assert facts["tensorrt"] == machine.trt.__version__
    assert facts["profiles"] == [{"frames": [4, 50, 300], "batch": [2, 2, 2]}]
    assert facts["layer_formats"] == {"FLOAT": 5}
    assert facts["context_memory_mib"] == [3.0]


def test_the_original_layout_gives_profiles_to_the_inputs_with_frames_only(machine, tmp_path):
    build(machine, plan_job(tmp_path))
    assert machine.bindings.arguments("IOptimizationProfile.set_shape") == [
        ("x", (2, CHANNELS, 4), (2, CHANNELS, 50), (2, CHANNELS, 300)),
        ("mask", (2, 1, 4), (2, 1, 50), (2, 1, 300)),
    ]


def test_a_dynamic_batch_gives_profiles_to_every_input(machine, tmp_path):
    model = small_estimator(batch="batch")
    job = plan_job(tmp_path, model=model, declared=component(batch_max=32), profile={"batch": [2, 4, 32]})
    build(machine, job)
    shapes = {call[0]: call[1:] for call in machine.bindings.arguments("IOptimizationProfile.set_shape")}
    assert shapes["t"] == ((2,), (4,), (32,))
    assert shapes["x"] == ((2, CHANNELS, 4), (4, CHANNELS, 50), (32, CHANNELS, 300))


def test_several_profiles_go_into_one_plan(machine, tmp_path):
    job = plan_job(tmp_path, profiles=[{"frames": [4, 20, 100]}, {"frames": [100, 200, 300]}])
    facts = build(machine, job)
    assert len(machine.bindings.arguments("IBuilderConfig.add_optimization_profile")) == 2
    assert len(facts["context_memory_mib"]) == len(facts["profiles"]) == 2


@both_versions
def test_networks_are_strongly_typed_by_the_flag_of_the_version(machine, tmp_path):
    build(machine, plan_job(tmp_path, precision="fp16"))
    expected = 1 << int(machine.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert machine.bindings.arguments("Builder.create_network") == [(expected,)]


@both_versions
def test_no_precision_flag_is_ever_set(machine, tmp_path):
    facts = build(machine, plan_job(tmp_path, precision="fp16"))
    assert machine.bindings.arguments("IBuilderConfig.set_flag") == []
    assert facts["layer_formats"] == {"HALF": 5}


@both_versions
def test_settings_reach_the_builder(machine, tmp_path):
    job = plan_job(tmp_path, workspace_gib=1.5, optimization_level=5, hardware_compatibility="ampere_plus", tf32=False)
    build(machine, job)
    calls = machine.bindings.arguments
    assert calls("IBuilderConfig.set_memory_pool_limit") == [(machine.trt.MemoryPoolType.WORKSPACE, int(1.5 * 2**30))]
    assert calls("IBuilderConfig.builder_optimization_level=") == [(5,)]
    assert calls("IBuilderConfig.hardware_compatibility_level=") == [
        (machine.trt.HardwareCompatibilityLevel.AMPERE_PLUS,)
    ]
    assert calls("IBuilderConfig.clear_flag") == [(machine.trt.BuilderFlag.TF32,)]
    assert calls("Builder.max_threads=") == [(2,)]


@both_versions
def test_a_version_compatible_plan_is_flagged_by_name_and_read_back(machine, tmp_path):
    build(machine, plan_job(tmp_path, version_compatible=True))
    assert machine.bindings.arguments("IBuilderConfig.set_flag") == [(machine.trt.BuilderFlag.VERSION_COMPATIBLE,)]


def test_the_graph_is_parsed_from_its_file_so_that_external_weights_are_found(machine, tmp_path):
    job = plan_job(tmp_path)
    job.inputs["onnx"].unlink()
    onnx.save(
        small_estimator(),
        job.inputs["onnx"],
        save_as_external_data=True,
        location="small.onnx.data",
        size_threshold=0,
        convert_attribute=True,
    )
    build(machine, job)
    assert machine.bindings.arguments("OnnxParser.parse_from_file") == [(str(job.inputs["onnx"]),)]


@both_versions
def test_a_built_plan_runs_and_names_its_axes(machine, tmp_path):
    job = plan_job(tmp_path)
    build(machine, job)
    engine = load_engine(job.outputs["plan"], trt=machine.trt, streams=FakeStreams())
    assert machine.bindings.arguments("INetworkDefinition.name=") == [("small.estimator frames:x.2,mask.2",)]
    assert [tensor.axes for tensor in engine.interface.inputs] == [("", "", "frames"), ("", "", "frames"), ("",)]


@both_versions
def test_every_error_of_the_parser_is_in_the_message(machine, tmp_path):
    job = plan_job(tmp_path, model=small_estimator(operator="Det"))
    error = rejection(machine, job)
    assert error.where == str(job.inputs["onnx"])
    assert "/mid/act/Det (Det)" in error.value


def test_a_build_that_returns_nothing_never_becomes_a_file(machine, tmp_path):
    machine.faults.build_errors = ("Could not find any implementation for node /Mul.", "Internal Error (10)")
    assert rejection(machine, plan_job(tmp_path)).value == "; ".join(machine.faults.build_errors)


def test_too_little_memory_for_the_build_has_its_own_remedy(machine, tmp_path):
    machine.faults.build_errors = ("Requested amount of GPU memory (9000000000 bytes) could not be allocated.",)
    assert "tensorrt.workspace_gib" in rejection(machine, plan_job(tmp_path)).remedy


def test_a_machine_without_cuda_is_reported(machine, tmp_path):
    machine.faults.cuda = True
    error = rejection(machine, plan_job(tmp_path))
    assert "error: 35" in error.value
    assert "driver" in error.remedy


def test_a_graph_of_another_precision_is_rejected_before_building(machine, tmp_path):
    job = plan_job(tmp_path, precision="fp16", model=small_estimator(precision="fp32"))
    error = rejection(machine, job)
    assert error.where == str(job.inputs["onnx"])
    assert "precision=fp16" in error.remedy
    assert machine.bindings.calls == []


def test_a_profile_for_a_batch_that_is_fixed_in_the_graph_is_rejected(machine, tmp_path):
    error = rejection(machine, plan_job(tmp_path, declared=component(batch_max=8)))
    assert error.where == "x, dimension 0"
    assert "[2, 2, 8]" in str(error)
    assert "onnx.dynamic_batch=true" in error.remedy


def test_a_graph_with_other_inputs_than_declared_is_rejected(machine, tmp_path):
    declared = component()
    declared["inputs"]["spks"] = declared["inputs"].pop("t")
    error = rejection(machine, plan_job(tmp_path, declared=declared))
    assert error.value == "['x', 'mask', 't'] for ['x', 'mask', 'spks']"


def test_a_file_that_is_not_onnx_is_rejected(machine, tmp_path):
    job = plan_job(tmp_path)
    job.inputs["onnx"].write_bytes(b"\x00garbage")
    assert rejection(machine, job).where == str(job.inputs["onnx"])
    assert machine.bindings.calls == []


def test_the_gpu_in_the_files_name_must_be_the_one_that_builds(machine, tmp_path):
    error = rejection(machine, plan_job(tmp_path, gpu="l4-sm89"))
    assert (error.where, error.value) == ("l4-sm89", "h200-sm90")


def test_hardware_compatibility_of_a_later_tensorrt_is_rejected_by_name(tmp_path):
    machine = Machine("10.13.3")
    levels = machine.trt.HardwareCompatibilityLevel
    machine.trt.HardwareCompatibilityLevel = type("Older", (), {"NONE": levels.NONE, "AMPERE_PLUS": levels.AMPERE_PLUS})
    error = rejection(machine, plan_job(tmp_path, hardware_compatibility="same_compute_capability"))
    assert (error.where, error.value) == ("tensorrt.hardware_compatibility", "same_compute_capability")


def test_without_a_gpu_the_step_names_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.actions.build_plan.action.gpus", list)
    monkeypatch.setattr("tasks.actions.build_plan.action.build_obstacle", lambda: ("no GPU", "Add one"))
    with pytest.raises(UserError) as caught:
        run(plan_job(tmp_path))
    assert (caught.value.what, caught.value.remedy) == ("no GPU", "Add one")


def test_the_parser_lives_until_the_network_is_built(machine, tmp_path):
    parsers = []
    make = machine.bindings.behaviours["OnnxParser"]
    build_network = machine.bindings.behaviours["Builder.build_serialized_network"]
    machine.bindings.behaviours["OnnxParser"] = lambda this, *args: (
        parsers.append(weakref.ref(this)),
        make(this, *args),
    )
    machine.bindings.behaviours["Builder.build_serialized_network"] = lambda *args: (
        build_network(*args) if parsers[0]() else pytest.fail("the network's weights are gone")
    )
    build(machine, plan_job(tmp_path))


@pytest.mark.gpu
def test_a_real_plan_is_built_and_runs(tmp_path):
    pytest.importorskip("tensorrt")
    torch = pytest.importorskip("torch")
    if not gpus() or not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    from tasks.runtimes.tensorrt_.engine import open_artifact

    job = plan_job(tmp_path, precision="fp16", gpu=gpus()[0].slug, timing_cache=str(tmp_path / "cache"))
    facts = run(job)
    assert facts["layer_formats"] != {}
    engine = open_artifact(job.outputs["plan"], device="cuda", threads=1, concurrency=2)
    inputs = {"x": torch.randn(2, CHANNELS, 33), "mask": torch.ones(2, 1, 33), "t": torch.full((2,), 0.25)}
    (out,) = engine({name: tensor.cuda() for name, tensor in inputs.items()})
    weight = torch.from_numpy(onnx.numpy_helper.to_array(small_estimator().graph.initializer[0]).copy())
    expected = torch.tanh(torch.nn.functional.conv1d(inputs["x"], weight, padding=1)) + 0.25
    torch.testing.assert_close(out.float().cpu(), expected, rtol=2e-2, atol=2e-2)
    longer = {name: torch.nn.functional.pad(t, (0, 400)) if t.dim() == 3 else t for name, t in inputs.items()}
    assert "tensorrt.profile.frames" in str(error_of(engine, longer))
