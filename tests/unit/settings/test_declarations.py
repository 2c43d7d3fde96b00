"""The declaration of a component: what is wrong with it is reported while composing, by the name of the setting."""

from pathlib import Path

import pytest

from tasks.errors import ConfigError, UserError
from tasks.pipeline.component_params import declaration
from tasks.pipeline.graph_inputs import GraphInputs, Machine
from tasks.settings.component import DTYPES, AxisSpec, ComponentSpec, Dtype, InputSpec, Kind
from tasks.settings.compose import load
from tasks.settings.conf_folder import group_options

ENCODER = "model.components.flow_encoder"
XS, LENS = f"{ENCODER}.inputs.xs", f"{ENCODER}.inputs.xs_lens"
ESTIMATOR = "model.components.flow_decoder_estimator"


def problems(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(words, workdir=Path("/w"))
    return caught.value.problems


def spec_of(key: str, *words: str) -> ComponentSpec:
    (config,) = load(words, workdir=Path("/w"))
    params = declaration(GraphInputs(config, Machine(), {}), config.model.components[key])
    return ComponentSpec.from_params(params)


@pytest.mark.parametrize(
    ("word", "setting", "also"),
    [
        (f"{XS}.kind=noise", f"{XS}.kind", "noise"),
        (f"{XS}.dtype=int23", f"{XS}.dtype", "int23"),
        (f"{XS}.dtype=int64", f"{XS}.dtype=int64", "float32"),
        (f"{LENS}.dtype=float32", f"{LENS}.dtype=float32", "int32 or int64"),
        (f"{XS}.kind=integers", f"{XS}.kind=integers", "low and high"),
        (f"{XS}={{shape: [utterances, tokens], kind: integers, low: 0}}", f"{XS}.kind=integers", "high"),
        (f"{XS}={{shape: [utterances, tokens], kind: integers, low: 9, high: 3}}", f"{XS}.low=9", "high=3"),
        (f"{XS}={{shape: [utterances, tokens], kind: integers, low: 0.5, high: 3}}", f"{XS}.low=0.5", "whole"),
        (
            f"{XS}={{shape: [utterances, tokens], kind: integers, low: 1000001, high: 1000000}}",
            f"{XS}.low=1000001",
            "=1000000",
        ),
        (
            f"{LENS}={{shape: [utterances], kind: integers, dtype: int32, low: 0, high: 9e9}}",
            f"{LENS}.high=9000000000",
            "int32",
        ),
        (f"{XS}={{shape: [utterances, tokens], kind: uniform, low: 1}}", f"{XS}.low=1", "high=1"),
        (f"{XS}.high=3", f"{XS}.high=3", "normal"),
        (f"{XS}.axis=tokens", f"{XS}.axis=tokens", "normal"),
        (f"{LENS}.axis=frames", f"{LENS}.axis=frames", "tokens"),
        (f"{XS}.shape=[utterances,5,width]", f"{LENS}.axis", "no other input has an axis"),
        (f"{XS}.shape=[utterances,tokens,frames]", f"{LENS}.axis", "any of frames, tokens"),
        (f"{LENS}.shape=[utterances,1]", f"{LENS}.shape", "1 dimension"),
        (f"{ESTIMATOR}.inputs.mask.shape=[frames]", f"{ESTIMATOR}.inputs.mask.shape", "2 dimensions"),
        (f"{XS}.shape=[utterances,tokens,widht]", f"{XS}.shape", "no axis widht"),
        (f"{XS}.shape=[utterances,tokens,0]", f"{XS}.shape", "0 is neither"),
        (f"{ENCODER}.outputs.ys=[utterances,nothing,width]", f"{ENCODER}.outputs.ys", "no axis nothing"),
        (f"{ESTIMATOR}.name=flow.encoder", f"{ESTIMATOR}.name=flow.encoder", ENCODER),
        (f"{ENCODER}.name=../flow", f"{ENCODER}.name=../flow", "dots between"),
        (f"{ENCODER}.precisions=[fp99]", f"{ENCODER}.precisions=fp99", "bf16"),
        ("onnx.dynamic_batch=true", "model.axes.batch", "model.axes.batch.max"),
        (f"{ENCODER}.part=flw", f"{ENCODER}.part=flw", "flow"),
        (f"{ENCODER}.loader=tasks.models.nowhere:load", f"{ENCODER}.loader", "no module tasks.models.nowhere"),
        (f"{ENCODER}.loader=tasks.models.cosyvoice.folder", f"{ENCODER}.loader", "module:function"),
        (f"{ENCODER}.loader=tasks.models.cosyvoice.folder:YAML_NAMES", f"{ENCODER}.loader", "not callable"),
        (f"{ENCODER}.recorder=tasks.models.demo.data:record", f"{ENCODER}.recorder", "has no record"),
        ("model.training.data=tasks.models.demo.data", "model.training.data", "module:function"),
        (f"{ENCODER}.inputs.xs.kind=recorded", f"{XS}.kind=recorded", f"{ENCODER}.recordings"),
        ("model.axes.frames.multiple_of=0", "model.axes.frames.multiple_of=0", "1 to 2147483647"),
    ],
)
def test_what_is_wrong_with_a_declaration_is_named_while_composing(word: str, setting: str, also: str) -> None:
    (problem,) = problems("tensorrt.mode=off", word)
    assert problem.startswith(setting)
    assert also in problem
    assert "\n" not in problem


@pytest.mark.parametrize(("field", "enum"), [("kind", Kind), ("dtype", Dtype)])
def test_an_unknown_kind_or_dtype_is_named_with_all_that_are_known(field: str, enum: type[Kind | Dtype]) -> None:
    (problem,) = problems(f"{XS}.{field}=other")
    assert problem.startswith(f"{XS}.{field}=other: ")
    assert all(member.value in problem for member in enum)


def test_several_unknown_names_in_one_declaration_come_together() -> None:
    inputs = "{xs: {shape: [utterances, tokens], kind: integer, dtype: int23}, xs_lens: {kind: length}}"
    found = problems(f"{ENCODER}.inputs={inputs}")
    assert [problem.partition(":")[0] for problem in found] == [
        f"{XS}.kind=integer",
        f"{XS}.dtype=int23",
        f"{LENS}.kind=length",
    ]
    assert found[0].endswith("did you mean integers?")


def test_problems_of_a_declaration_come_together() -> None:
    words = [f"{XS}.kind=noise", f"{LENS}.dtype=int23", f"{LENS}.axis=frames", f"{ESTIMATOR}.loader=nowhere:load"]
    found = problems(*words, "onnx.opset=99")
    assert len(found) == 5
    for setting in (f"{XS}.kind", f"{LENS}.dtype", f"{LENS}.axis", f"{ESTIMATOR}.loader", "onnx.opset"):
        assert any(problem.startswith(setting) for problem in found), setting


def test_a_broken_axis_hides_no_wrong_profile() -> None:
    found = problems("model.axes.frames.min=600", "tensorrt.profile.framez=[1,2,3]")
    assert [problem.partition(":")[0] for problem in found] == ["model.axes.frames", "tensorrt.profile.framez"]


def test_recorded_values_need_recordings_that_verification_uses() -> None:
    kind = f"{ESTIMATOR}.inputs.cond.kind=recorded"
    load((kind,), workdir=Path("/w"))
    load((kind, "verify.real_inputs=false", f"{ESTIMATOR}.recordings=[real.pt]"), workdir=Path("/w"))
    (problem,) = problems(kind, "verify.real_inputs=false")
    assert problem.startswith(kind)


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_a_default_dtype(kind: Kind) -> None:
    assert InputSpec.from_params({"shape": ["n"], "kind": kind.value}).dtype is DTYPES[kind][0]


def test_a_step_carries_the_declaration_in_the_order_of_the_artifacts_inputs() -> None:
    spec = spec_of("flow_decoder_estimator")
    assert list(spec.inputs) == ["x", "mask", "mu", "t", "spks", "cond"]
    assert spec.of_kind(Kind.time) == ("t",)
    assert spec.shape("x", {"batch": 2, "mel": 80, "frames": 7}) == (2, 80, 7)


def test_inputs_are_ordered_even_where_json_was_sorted() -> None:
    inputs = {"a": {"shape": [1]}, "b": {"shape": [1]}}
    spec = ComponentSpec.from_params({"name": "n", "inputs": inputs, "outputs": {}, "argument_order": ["b", "a"]})
    assert list(spec.inputs) == ["b", "a"]


def test_the_batch_is_fixed_in_files_unless_all_axes_are_to_be_dynamic() -> None:
    spec = spec_of("flow_decoder_estimator", "model.axes.batch={max: 8}")
    assert list(spec.dynamic_axes(dynamic_batch=False)) == ["frames"]
    assert sorted(spec.dynamic_axes(dynamic_batch=True)) == ["batch", "frames"]
    assert spec.sizes_at("max") == {"batch": 2, "frames": 1000}


def test_any_axis_can_be_fixed_whatever_its_name() -> None:
    assert not spec_of("flow_decoder_estimator", "model.axes.frames.dynamic=false").dynamic_axes(dynamic_batch=False)


def test_sizes_that_an_artifact_fixes_are_those_of_named_dimensions() -> None:
    spec = spec_of("flow_decoder_estimator")
    assert spec.fixed_sizes({"x": (2, 80, None), "other": (5,)}) == {"batch": 2, "mel": 80}


def test_a_size_that_nobody_knows_is_named() -> None:
    with pytest.raises(UserError, match=r"inputs\.xs\.shape.*width"):
        spec_of("flow_encoder").shape("xs", {"utterances": 1, "tokens": 4})


@pytest.mark.parametrize("model", group_options("model"))
def test_a_component_knows_where_it_is_declared(model: str) -> None:
    (config,) = load([f"model={model}", "model.dir=/m"] if model != "demo" else [], workdir=Path("/w"))
    for key, component in config.model.components.items():
        assert ComponentSpec(component.name).setting == f"model.components.{key}"


def test_lengths_measure_the_only_axis_that_they_do_not_have_or_the_declared_one() -> None:
    assert spec_of("flow_encoder").measured_axis("xs_lens") == "tokens"
    inputs = {"x": InputSpec(("n", "t", "u")), "lens": InputSpec(("n",), Kind.lengths, axis="u")}
    axes = dict.fromkeys(("n", "t", "u"), AxisSpec(1, 2, 3))
    assert ComponentSpec("c", inputs=inputs, axes=axes).measured_axis("lens") == "u"
