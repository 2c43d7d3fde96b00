"""The double is as strict as the bindings it was generated from; otherwise the contract tests would prove nothing."""

import pytest

from tests.support.tensorrt_double import VERSIONS
from tests.support.tensorrt_simulation import Machine

both = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture(params=VERSIONS)
def trt(request):
    return Machine(request.param).trt


def test_what_only_10_has_is_refused_on_11():
    ten, eleven = (Machine(version).trt for version in VERSIONS)
    assert ten.BuilderFlag.FP16.value == 0
    assert ten.NetworkDefinitionCreationFlag.EXPLICIT_BATCH.value == 0
    for enumeration, name in ((eleven.BuilderFlag, "FP16"), (eleven.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")):
        with pytest.raises(AttributeError):
            getattr(enumeration, name)


def test_flags_are_numbered_as_in_each_version():
    assert [int(Machine(version).trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) for version in VERSIONS] == [1, 0]


def test_a_tensors_type_can_be_set_on_10_only():
    for version, refused in zip(VERSIONS, (False, True), strict=True):
        machine = Machine(version)
        tensor = machine.made("ITensor", name="x")
        if refused:
            with pytest.raises(AttributeError):
                tensor.dtype = machine.trt.DataType.HALF
        else:
            tensor.dtype = machine.trt.DataType.HALF


def test_an_invented_property_is_refused(trt):
    config = trt.Builder(trt.Logger()).create_builder_config()
    with pytest.raises(AttributeError):
        config.max_workspace_size = 1


def test_an_invented_method_and_class_are_refused(trt):
    assert not hasattr(trt.Builder(trt.Logger()), "build_cuda_engine")
    assert not hasattr(trt, "OnnxImporter")


def test_wrong_arguments_are_refused(trt):
    builder = trt.Builder(trt.Logger())
    config = builder.create_builder_config()
    wrong = [
        trt.Builder,
        lambda: trt.Builder("logger"),
        lambda: builder.create_network(flag=1),
        lambda: builder.create_network(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
        lambda: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 4.0),
        lambda: config.set_flag(6),
        lambda: builder.create_optimization_profile().set_shape("x", 1, 2, 3),
        trt.IBuilderConfig,
    ]
    for call in wrong:
        with pytest.raises(TypeError):
            call()


def test_arguments_of_classes_that_the_files_only_name_are_no_gap():
    machine = Machine()
    engine = machine.made("ICudaEngine")
    for strategy in ("STATIC", 0, machine.trt.TensorIOMode.INPUT):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            engine.create_execution_context(strategy)


def test_a_method_cannot_be_assigned_to(trt):
    builder = trt.Builder(trt.Logger())
    with pytest.raises(AttributeError):
        builder.create_network = None


def test_keywords_and_defaults_are_those_of_the_bindings(trt):
    builder = trt.Builder(logger=trt.Logger())
    builder.create_network()
    builder.create_optimization_profile().set_shape(input="x", min=(1, 2), opt=[1, 3], max=(1, 4))


def test_a_python_subclass_may_keep_its_own_attributes(trt):
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.seen = 0

    assert Monitor().seen == 0


@both
def test_every_call_is_recorded(version: str):
    machine = Machine(version)
    machine.trt.Builder(machine.trt.Logger()).create_network(0)
    assert machine.bindings.arguments("Builder.create_network") == [(0,)]
    assert "Builder" in machine.bindings.names()
