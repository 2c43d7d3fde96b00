"""A plan is built as asked on TensorRT 10 and 11, read back, and refused whenever something is not as asked."""

import _thread
import errno
import io
import os
import signal
import threading
import time
import weakref
from pathlib import Path

import onnx
import pytest

from tasks import progress
from tasks.actions.build_plan.action import build, run
from tasks.actions.build_plan.inspection import read_inspection
from tasks.actions.build_plan.progress import BuildProgress, Lines, progress_monitor, run_cancellable
from tasks.errors import UserError
from tasks.job import Job
from tasks.machine.gpus import Gpu, gpus
from tasks.runtimes.tensorrt_.engine import load_engine
from tests.support.fake_streams import FakeStreams
from tests.support.onnx_samples import CHANNELS, component, small_estimator
from tests.support.tensorrt_double import VERSIONS
from tests.support.tensorrt_simulation import Machine

GPU = Gpu(0, "NVIDIA H200", "9.0", "580.65.06")
SETTINGS = {
    "profile": {},
    "profiles": [],
    "workspace_gib": 4.0,
    "optimization_level": 3,
    "hardware_compatibility": "none",
    "version_compatible": False,
    "tf32": False,
}


ANY_SHAPES = {"x": [(2, CHANNELS, 7)] * 3, "mask": [(2, 1, 7)] * 3, "t": [(2,)] * 3}


@pytest.fixture(params=VERSIONS)
def machine(request) -> Machine:
    return Machine(request.param)


def _job(
    folder: Path, *, precision="fp32", model=None, declared=None, gpu="h200-sm90", timing_cache=None, **settings
) -> Job:
    path = folder / "small.onnx"
    onnx.save(model or small_estimator(precision=precision), path)
    (folder / "out").mkdir(exist_ok=True)
    return Job(
        step=f"export_plan:demo/small.estimator.{precision}",
        action="tasks.actions.build_plan.action:run",
        inputs={"onnx": path},
        outputs={"plan": folder / "out" / "small.plan"},
        params={
            "component": declared or component(),
            "precision": {"name": precision},
            "tensorrt": SETTINGS | settings,
            "gpu": gpu,
        },
        local={"timing_cache": timing_cache},
        threads=2,
    )


def _build(machine: Machine, job: Job) -> dict:
    return build(job, trt=machine.trt, gpu=GPU)


def test_the_plan_is_written_and_its_facts_are_told(machine, tmp_path):
    job = _job(tmp_path)
    facts = _build(machine, job)
    assert job.outputs["plan"].stat().st_size > 0
    assert facts["gpu"] == "NVIDIA H200"
    assert facts["compute_capability"] == "9.0"
    assert facts["driver"] == "580.65.06"
    assert facts["tensorrt"] == machine.trt.__version__
    assert facts["profiles"] == [{"frames": [4, 50, 300], "batch": [2, 2, 2]}]
    assert facts["layer_formats"] == {"FLOAT": 5}
    assert facts["context_memory_mib"] == [3.0]


def test_the_published_layout_gives_profiles_to_the_inputs_with_frames_only(machine, tmp_path):
    _build(machine, _job(tmp_path))
    assert machine.bindings.arguments("IOptimizationProfile.set_shape") == [
        ("x", (2, CHANNELS, 4), (2, CHANNELS, 50), (2, CHANNELS, 300)),
        ("mask", (2, 1, 4), (2, 1, 50), (2, 1, 300)),
    ]


def test_a_dynamic_batch_gives_profiles_to_every_input(machine, tmp_path):
    model = small_estimator(batch="batch")
    job = _job(tmp_path, model=model, declared=component(batch_max=32), profile={"batch": [2, 4, 32]})
    _build(machine, job)
    shapes = {call[0]: call[1:] for call in machine.bindings.arguments("IOptimizationProfile.set_shape")}
    assert shapes["t"] == ((2,), (4,), (32,))
    assert shapes["x"] == ((2, CHANNELS, 4), (4, CHANNELS, 50), (32, CHANNELS, 300))


def test_several_profiles_go_into_one_plan(machine, tmp_path):
    job = _job(tmp_path, profiles=[{"frames": [4, 20, 100]}, {"frames": [100, 200, 300]}])
    facts = _build(machine, job)
    assert len(machine.bindings.arguments("IBuilderConfig.add_optimization_profile")) == 2
    assert len(facts["context_memory_mib"]) == len(facts["profiles"]) == 2


def test_networks_are_strongly_typed_by_the_flag_of_the_version(machine, tmp_path):
    _build(machine, _job(tmp_path, precision="fp16"))
    expected = 1 << int(machine.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert machine.bindings.arguments("Builder.create_network") == [(expected,)]


def test_no_precision_flag_is_ever_set(machine, tmp_path):
    facts = _build(machine, _job(tmp_path, precision="fp16"))
    assert machine.bindings.arguments("IBuilderConfig.set_flag") == []
    assert facts["layer_formats"] == {"HALF": 5}


def test_settings_reach_the_builder(machine, tmp_path):
    job = _job(tmp_path, workspace_gib=1.5, optimization_level=5, hardware_compatibility="ampere_plus", tf32=False)
    _build(machine, job)
    told = machine.bindings.arguments
    assert told("IBuilderConfig.set_memory_pool_limit") == [(machine.trt.MemoryPoolType.WORKSPACE, int(1.5 * 2**30))]
    assert told("IBuilderConfig.builder_optimization_level=") == [(5,)]
    assert told("IBuilderConfig.hardware_compatibility_level=") == [
        (machine.trt.HardwareCompatibilityLevel.AMPERE_PLUS,)
    ]
    assert told("IBuilderConfig.clear_flag") == [(machine.trt.BuilderFlag.TF32,)]
    assert told("Builder.max_threads=") == [(2,)]


def test_a_version_compatible_plan_is_flagged_by_name_and_read_back(machine, tmp_path):
    _build(machine, _job(tmp_path, version_compatible=True))
    assert machine.bindings.arguments("IBuilderConfig.set_flag") == [(machine.trt.BuilderFlag.VERSION_COMPATIBLE,)]


def test_the_graph_is_parsed_from_its_file_so_that_external_weights_are_found(machine, tmp_path):
    job = _job(tmp_path)
    job.inputs["onnx"].unlink()
    onnx.save(
        small_estimator(),
        job.inputs["onnx"],
        save_as_external_data=True,
        location="small.onnx.data",
        size_threshold=0,
        convert_attribute=True,
    )
    _build(machine, job)
    assert machine.bindings.arguments("OnnxParser.parse_from_file") == [(str(job.inputs["onnx"]),)]


def test_a_built_plan_runs_and_speaks_of_axes(machine, tmp_path):
    job = _job(tmp_path)
    _build(machine, job)
    engine = load_engine(job.outputs["plan"], trt=machine.trt, streams=FakeStreams())
    assert machine.bindings.arguments("INetworkDefinition.name=") == [("small.estimator frames:x.2,mask.2",)]
    assert [tensor.axes for tensor in engine.interface.inputs] == [("", "", "frames"), ("", "", "frames"), ("",)]


def _refused(machine: Machine, job: Job, message: str) -> UserError:
    with pytest.raises(UserError, match=message) as caught:
        _build(machine, job)
    assert list(job.outputs["plan"].parent.iterdir()) == []
    return caught.value


def test_every_error_of_the_parser_is_in_the_message(machine, tmp_path):
    job = _job(tmp_path, model=small_estimator(operator="Det"))
    error = _refused(machine, job, "TensorRT cannot read the graph")
    assert "No importer registered for op: Det at node /mid/act/Det (Det)" in str(error)


def test_a_build_that_gives_nothing_never_becomes_a_file(machine, tmp_path):
    machine.faults.build_says = ("Could not find any implementation for node /Mul.", "Internal Error (10)")
    _refused(machine, _job(tmp_path), r"TensorRT built no plan .*implementation for node /Mul.; Internal Error")


def test_too_little_memory_for_the_build_has_its_own_remedy(machine, tmp_path):
    machine.faults.build_says = ("Requested amount of GPU memory (9000000000 bytes) could not be allocated.",)
    _refused(machine, _job(tmp_path), r"Raise tensorrt.workspace_gib")


def test_a_machine_without_cuda_is_told(machine, tmp_path):
    machine.faults.cuda = True
    _refused(machine, _job(tmp_path), "CUDA does not start for TensorRT")


@pytest.mark.parametrize(
    ("fault", "value", "message"),
    [
        ("ignores_precision", True, "no layer computes in HALF, they compute in FLOAT"),
        ("drops_input", "t", r"inputs are \['x', 'mask'\] instead of \['x', 'mask', 't'\]"),
        ("output_kind", "FLOAT", "output out is torch.float32 instead of HALF"),
    ],
)
def test_a_plan_that_is_not_what_was_asked_is_refused(machine, tmp_path, fault, value, message):
    setattr(machine.faults, fault, value)
    _refused(machine, _job(tmp_path, precision="fp16"), f"the built plan is not what was asked.*{message}")


@pytest.mark.parametrize(
    ("member", "answer", "message"),
    [
        ("ICudaEngine.num_optimization_profiles", lambda this: 3, "3 profiles instead of 1"),
        ("ICudaEngine.get_tensor_profile_shape", lambda this, name, index: ANY_SHAPES[name], "profile 0 of x is"),
        ("ICudaEngine.get_tensor_shape", lambda this, name: (2, 5, -1), r"input x has shape \[2, 5, -1\] instead of"),
        (
            "EngineInspector.get_engine_information",
            lambda this, form: '{"Layers": [], "Bindings": ["x", "out"]}',
            r"the inspector lists \['out', 'x'\], the engine \['mask', 'out', 't', 'x'\]",
        ),
        (
            "EngineInspector.get_engine_information",
            lambda this, form: '{"Layers": [{"Outputs": [{"DataType": "FP16"}]}, {"Outputs": [{"DataType": "FP32"}]}]}',
            "layers compute in HALF, which the graph does not have",
        ),
    ],
)
def test_an_engine_that_answers_otherwise_is_refused(machine, tmp_path, member, answer, message):
    if member == "ICudaEngine.num_optimization_profiles":
        machine.bindings.behaviours["ICudaEngine.get_tensor_profile_shape"] = lambda this, name, i: ANY_SHAPES[name]
    machine.bindings.behaviours[member] = answer
    _refused(machine, _job(tmp_path), f"the built plan is not what was asked.*{message}")


def test_a_plan_that_tells_no_formats_says_so_in_its_facts(machine, tmp_path):
    machine.faults.tells_no_types = True
    assert _build(machine, _job(tmp_path))["layer_formats"] == "not told by this TensorRT's inspector"


def test_on_10_a_weakly_typed_network_would_be_caught(tmp_path, monkeypatch):
    machine = Machine("10.13.3")
    monkeypatch.setattr("tasks.actions.build_plan.builder.member", lambda enumeration, name: None)
    _refused(machine, _job(tmp_path, precision="fp16"), "no layer computes in HALF")


def test_a_graph_of_another_precision_is_refused_before_building(machine, tmp_path):
    job = _job(tmp_path, precision="fp16", model=small_estimator(precision="fp32"))
    _refused(machine, job, "precision=fp16 asks for HALF, but the graph's weights are FLOAT")
    assert machine.bindings.calls == []


def test_an_impossible_profile_is_refused_before_building(machine, tmp_path):
    _refused(
        machine, _job(tmp_path, profile={"frames": [500, 4, 3000]}), r"impossible profile.*needs min <= opt <= max"
    )
    assert machine.bindings.calls == []


def test_a_profile_for_a_batch_that_is_fixed_in_the_graph_is_refused(machine, tmp_path):
    job = _job(tmp_path, declared=component(batch_max=8))
    _refused(machine, job, r"batch fixed at 2, the profile asks for \[2, 2, 8\].*onnx.dynamic_batch=true")


def test_a_graph_with_other_inputs_than_declared_is_refused(machine, tmp_path):
    declared = component()
    declared["inputs"]["spks"] = declared["inputs"].pop("t")
    _refused(machine, _job(tmp_path, declared=declared), "the graph's inputs are not the declared ones")


def test_a_file_that_is_no_onnx_is_refused(machine, tmp_path):
    job = _job(tmp_path)
    job.inputs["onnx"].write_bytes(b"\x00garbage")
    _refused(machine, job, "not an ONNX model|ONNX file without a graph")


def test_the_gpu_in_the_files_name_must_be_the_one_that_builds(machine, tmp_path):
    _refused(machine, _job(tmp_path, gpu="l4-sm89"), r"another GPU than its name says .*h200-sm90")


def test_hardware_compatibility_of_a_later_tensorrt_is_refused_by_name(tmp_path):
    machine = Machine("10.13.3")
    levels = machine.trt.HardwareCompatibilityLevel
    machine.trt.HardwareCompatibilityLevel = type("Older", (), {"NONE": levels.NONE, "AMPERE_PLUS": levels.AMPERE_PLUS})
    job = _job(tmp_path, hardware_compatibility="same_compute_capability")
    _refused(machine, job, "does not offer it")


def test_without_a_gpu_the_step_says_what_is_missing(tmp_path):
    if gpus():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="GPU"):
        run(_job(tmp_path))


def test_timings_are_kept_between_builds(machine, tmp_path):
    job = _job(tmp_path, timing_cache=str(tmp_path / "cache"))
    assert _build(machine, job)["timing_cache"] == "begun"
    (file,) = (tmp_path / "cache").glob("*.cache")
    assert machine.trt.__version__ in file.name
    assert "h200-sm90" in file.name
    assert _build(machine, job)["timing_cache"] == "used"


@pytest.mark.parametrize("content", [b"nonsense", b"timings 8.6.1 old"])
def test_a_timing_cache_that_tensorrt_refuses_is_begun_anew(machine, tmp_path, content):
    job = _job(tmp_path, timing_cache=str(tmp_path / "cache"))
    _build(machine, job)
    (file,) = (tmp_path / "cache").glob("*.cache")
    file.write_bytes(content)
    assert _build(machine, job)["timing_cache"].startswith("begun anew")
    assert file.read_bytes().endswith(b"tactic")


def test_timings_of_a_build_beside_this_one_are_not_lost(machine, tmp_path):
    job = _job(tmp_path, timing_cache=str(tmp_path / "cache"))
    _build(machine, job)
    (file,) = (tmp_path / "cache").glob("*.cache")
    machine.faults.on_step = lambda step: file.write_bytes(f"timings {machine.version} other".encode())
    _build(machine, job)
    assert file.read_bytes().split()[2:] == [b"other", b"tactic"]


def test_timings_that_cannot_be_kept_cost_no_plan(machine, tmp_path):
    (tmp_path / "file").write_text("no folder")
    job = _job(tmp_path, timing_cache=str(tmp_path / "file" / "cache"))
    assert _build(machine, job)["timing_cache"] == "begun, but it cannot be kept: Not a directory"
    assert job.outputs["plan"].stat().st_size > 0


def test_a_full_disk_leaves_the_kept_timings_and_the_plan(machine, tmp_path, monkeypatch):
    job = _job(tmp_path, timing_cache=str(tmp_path / "cache"))
    _build(machine, job)
    (file,) = (tmp_path / "cache").glob("*.cache")
    before = file.read_bytes()
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.parent == file.parent:
            write(path, content[:3])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert _build(machine, job)["timing_cache"] == "used, but it cannot be kept: No space left on device"
    assert file.read_bytes() == before
    assert {path.name for path in file.parent.iterdir()} == {file.name, f"{file.name}.lock"}


def test_kept_timings_can_be_read_by_others(machine, tmp_path):
    _build(machine, _job(tmp_path, timing_cache=str(tmp_path / "cache")))
    (file,) = (tmp_path / "cache").glob("*.cache")
    (tmp_path / "ordinary").touch()
    assert file.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


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
    _build(machine, _job(tmp_path))


def test_a_build_without_a_cache_folder_keeps_no_timings(machine, tmp_path):
    assert _build(machine, _job(tmp_path))["timing_cache"] == "off"


def _ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    "interrupted",
    [_ctrl_c, pytest.param(_thread.interrupt_main, id="a signal that does not wake the waiting thread")],
)
def test_ctrl_c_stops_the_build_and_leaves_no_plan(machine, tmp_path, interrupted):
    seen = []

    def interrupt(step: int) -> None:
        seen.append(step)
        if step == 0:
            interrupted()
        time.sleep(0.01)

    machine.faults.steps, machine.faults.on_step = 500, interrupt
    job = _job(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        _build(machine, job)
    assert not job.outputs["plan"].exists()
    assert len(seen) < 400
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tensorrt-build")]


def test_a_display_that_fails_ends_the_build_with_its_error():
    class Broken(Lines):
        def advance(self, phase: str, *, done: int) -> None:
            raise OSError("terminal is gone")

    progress = BuildProgress(Broken())
    monitor = progress_monitor(Machine().trt, progress)
    monitor.phase_start("Build", None, 2)
    assert monitor.step_complete("Build", 0) is False
    with pytest.raises(OSError, match="terminal is gone"):
        run_cancellable(lambda: None, progress=progress)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("where", "shown"), [(_Terminal, "Building Engine: "), (io.StringIO, "TensorRT: Building")])
def test_progress_is_shown_where_a_step_shows_its_own_and_not_in_its_log(tmp_path, monkeypatch, capfd, where, shown):
    monkeypatch.setattr("tasks.actions.build_plan.progress.LOG_EVERY_SECONDS", 0.0)
    monkeypatch.setattr("tasks.progress._stream", where())
    _build(Machine(), _job(tmp_path))
    assert shown in progress.stream().getvalue()
    assert capfd.readouterr().err == ""


def test_phases_are_nested_under_their_parents():
    class Recording(Lines):
        seen: list = []  # noqa: RUF012

        def start(self, phase: str, *, depth: int, steps: int) -> None:
            self.seen.append((phase, depth, steps))

    display = Recording()
    monitor = progress_monitor(Machine().trt, BuildProgress(display))
    monitor.phase_start("Build", None, 9)
    monitor.phase_start("Tactics", "Build", 3)
    monitor.phase_finish("Tactics")
    assert display.seen == [("Build", 0, 9), ("Tactics", 1, 3)]


OF_10 = {
    "Layers": [
        {"Name": "a", "Outputs": [{"Name": "h", "Format/Datatype": "Row major linear FP16 format"}]},
        {"Name": "b", "Outputs": [{"Name": "y", "Format/Datatype": "Float"}]},
    ],
    "Bindings": ["x", "y"],
}
OF_11 = {
    "Layers": [
        {"Name": "a", "Outputs": [{"Name": "h", "Format": "LINEAR", "DataType": "FP16"}]},
        {"Name": "b", "Outputs": [{"Name": "y", "Format": "LINEAR", "Datatype": "FP32"}]},
    ],
    "I/O Tensors": [{"Name": "x", "DataType": "FP16", "ProfileInfo": []}, {"Name": "y", "DataType": "FP32"}],
}


@pytest.mark.parametrize("told", [OF_10, OF_11])
def test_both_layouts_of_the_inspectors_json_are_read(told):
    inspection = read_inspection(told)
    assert inspection.tensors == ("x", "y")
    assert inspection.float_kinds == {"FLOAT": 1, "HALF": 1}


def test_bf16_is_not_taken_for_fp16():
    layers = [{"Outputs": [{"Format/Datatype": "BFloat16"}]}, {"Outputs": [{"DataType": "BF16"}]}]
    assert read_inspection({"Layers": layers}).float_kinds == {"BF16": 2}


def test_layers_told_by_name_only_have_no_formats():
    assert read_inspection({"Layers": ["conv", "act"], "Bindings": ["x"]}).float_kinds == {}


@pytest.mark.gpu
def test_a_real_plan_is_built_and_runs(tmp_path):
    pytest.importorskip("tensorrt")
    torch = pytest.importorskip("torch")
    if not gpus() or not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    from tasks.runtimes.tensorrt_.engine import open_artifact

    job = _job(tmp_path, precision="fp16", gpu=gpus()[0].slug, timing_cache=str(tmp_path / "cache"))
    facts = run(job)
    assert facts["layer_formats"] != {}
    engine = open_artifact(job.outputs["plan"], device="cuda", threads=1, concurrency=2)
    inputs = {"x": torch.randn(2, CHANNELS, 33), "mask": torch.ones(2, 1, 33), "t": torch.full((2,), 0.25)}
    (out,) = engine({name: tensor.cuda() for name, tensor in inputs.items()})
    weight = torch.from_numpy(onnx.numpy_helper.to_array(small_estimator().graph.initializer[0]).copy())
    expected = torch.tanh(torch.nn.functional.conv1d(inputs["x"], weight, padding=1)) + 0.25
    torch.testing.assert_close(out.float().cpu(), expected, rtol=2e-2, atol=2e-2)
    with pytest.raises(UserError, match=r"above the maximum 300 of tensorrt.profile.frames"):
        engine({name: torch.nn.functional.pad(t, (0, 400)) if t.dim() == 3 else t for name, t in inputs.items()})
