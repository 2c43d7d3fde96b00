"""A built plan is read back and rejected if it differs from the request."""

import pytest

from tasks.actions.build_plan.inspection import read_inspection
from tasks.actions.build_plan.readback import NOT_REPORTED
from tests.support.onnx_samples import CHANNELS
from tests.support.plan_jobs import build, plan_job, rejection
from tests.support.tensorrt_simulation import Machine

ANY_SHAPES = {"x": [(2, CHANNELS, 7)] * 3, "mask": [(2, 1, 7)] * 3, "t": [(2,)] * 3}


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.mark.parametrize(
    ("fault", "value", "differences"),
    [
        ("ignores_precision", True, ["HALF", "FLOAT"]),
        ("drops_input", "t", ["inputs", "['x', 'mask']", "['x', 'mask', 't']"]),
        ("output_kind", "FLOAT", ["output out", "torch.float32", "HALF"]),
    ],
)
def test_a_plan_that_differs_from_the_request_is_rejected(machine, tmp_path, fault, value, differences):
    setattr(machine.faults, fault, value)
    job = plan_job(tmp_path, precision="fp16")
    error = rejection(machine, job)
    assert error.where == str(job.outputs["plan"])
    assert all(difference in error.value for difference in differences)


@pytest.mark.parametrize(
    ("member", "answer", "difference"),
    [
        ("ICudaEngine.num_optimization_profiles", lambda this: 3, "3 profiles"),
        ("ICudaEngine.get_tensor_profile_shape", lambda this, name, index: ANY_SHAPES[name], "profile 0 of x"),
        ("ICudaEngine.get_tensor_shape", lambda this, name: (2, 5, -1), "x has shape [2, 5, -1]"),
        (
            "EngineInspector.get_engine_information",
            lambda this, form: '{"Layers": [], "Bindings": ["x", "out"]}',
            "['out', 'x']",
        ),
        (
            "EngineInspector.get_engine_information",
            lambda this, form: '{"Layers": [{"Outputs": [{"DataType": "FP16"}]}, {"Outputs": [{"DataType": "FP32"}]}]}',
            "HALF",
        ),
    ],
)
def test_an_engine_that_answers_otherwise_is_rejected(machine, tmp_path, member, answer, difference):
    if member == "ICudaEngine.num_optimization_profiles":
        machine.bindings.behaviours["ICudaEngine.get_tensor_profile_shape"] = lambda this, name, i: ANY_SHAPES[name]
    machine.bindings.behaviours[member] = answer
    job = plan_job(tmp_path)
    error = rejection(machine, job)
    assert error.where == str(job.outputs["plan"])
    assert difference in error.value


def test_a_plan_that_reports_no_formats_has_none_in_its_facts(machine, tmp_path):
    machine.faults.reports_no_types = True
    assert build(machine, plan_job(tmp_path))["layer_formats"] == NOT_REPORTED


def test_on_10_a_weakly_typed_network_would_be_caught(tmp_path, monkeypatch):
    machine = Machine("10.13.3")
    monkeypatch.setattr("tasks.actions.build_plan.builder.enum_member", lambda enumeration, name: None)
    assert "HALF" in rejection(machine, plan_job(tmp_path, precision="fp16")).value


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


@pytest.mark.parametrize("report", [OF_10, OF_11])
def test_both_layouts_of_the_inspectors_json_are_read(report):
    inspection = read_inspection(report)
    assert inspection.tensors == ("x", "y")
    assert inspection.float_formats == {"FLOAT": 1, "HALF": 1}


def test_bf16_is_not_mistaken_for_fp16():
    layers = [{"Outputs": [{"Format/Datatype": "BFloat16"}]}, {"Outputs": [{"DataType": "BF16"}]}]
    assert read_inspection({"Layers": layers}).float_formats == {"BF16": 2}


def test_layers_that_are_only_names_have_no_formats():
    assert read_inspection({"Layers": ["conv", "act"], "Bindings": ["x"]}).float_formats == {}
