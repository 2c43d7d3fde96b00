"""Settings: composed strictly, and everything that is wrong with them named at once."""

from pathlib import Path

import pytest
import yaml

from tasks.errors import ConfigError
from tasks.settings.compose import as_yaml, load
from tasks.settings.conf_folder import ROOT
from tasks.settings.schema import Config

HERE = Path("/somewhere")


def one(*words: str) -> Config:
    (config,) = load(words, workdir=HERE)
    return config


def problems(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(words, workdir=HERE)
    return caught.value.problems


def test_without_words_it_is_the_demo_in_fp32() -> None:
    config = one()
    assert (config.model.name, config.precision.name, config.onnx.opset) == ("demo", "fp32", 18)


def test_the_tolerances_follow_the_precision() -> None:
    assert one("precision=fp16").verify != one("precision=fp32").verify


def test_a_sweep_gives_one_configuration_for_each_combination() -> None:
    configs = load(["precision=fp32,fp16", "onnx.opset=17"], workdir=HERE)
    assert [(c.precision.name, c.onnx.opset) for c in configs] == [("fp32", 17), ("fp16", 17)]


def test_relative_paths_start_where_the_command_was_typed() -> None:
    config = one("model=cosyvoice2", "model.dir=models/cv2", "artifacts=out", "model.checkpoints.flow=/data/flow")
    assert config.model.dir == "/somewhere/models/cv2"
    assert config.artifacts == "/somewhere/out"
    assert config.model.checkpoints["flow"] == "/data/flow"


TYPED = (
    "2025_12_03", "3.10", "1e3", "0x10", "yes", "True", "nan", "None", "a~b", "-1", "模型/粤语-v2",
    "CosyVoice2-0.5B (1)", "a#b", "user@lab", "my models/ft", "it's", 'a "b"', "back\\slash\\", "a$b", "a:b", "lr=1e-4",
    "\udcff",
)  # fmt: skip


@pytest.mark.parametrize("typed", [*TYPED, " x ", "lr=1e-4,bs=8", "[a]", "{a: b}", "range(0,9)", "a,'b'"])
def test_text_is_what_was_typed(typed: str) -> None:
    words = (f"artifacts=./{typed}", f"model.config={typed}", f"model.checkpoints.flow=/data/{typed}")
    config = one("model=cosyvoice2", f"model.dir={typed}", *words)
    assert config.model.dir == str(HERE / typed)
    assert config.artifacts == str(HERE / typed)
    assert config.model.config == typed
    assert config.model.checkpoints["flow"] == f"/data/{typed}"


def test_texts_in_a_list_are_what_was_typed() -> None:
    config = one("model=cosyvoice2", f"model.components.flow_encoder.recordings=[{','.join(TYPED)}]")
    assert config.model.components["flow_encoder"].recordings == [str(HERE / item) for item in TYPED]


@pytest.mark.parametrize("name", ["2025_12_03", "3.10", "1e3", "0x10", "yes", "null", "粤语"])
def test_a_name_is_no_number_alone_and_in_a_mapping(name: str) -> None:
    assert one(f"model.name={name}").model.name == name
    assert one(f"model.components.flow_encoder={{name: {name}}}").model.components["flow_encoder"].name == name


def test_quotes_that_were_typed_are_those_of_hydras_grammar() -> None:
    assert one("model.name='3.10'").model.name == one('model.name="3.10"').model.name == "3.10"
    assert one("model=cosyvoice2", "model.dir='null'").model.dir == "/somewhere/null"
    assert one("model=cosyvoice2", "model.dir=null").model.dir is None


def test_settings_are_printed_so_that_they_can_be_read_again() -> None:
    config = one("model=cosyvoice2", "model.name=3.10", "model.dir=粤语 ${artifacts}\\${x}")
    printed = yaml.safe_load(as_yaml(config))["model"]
    assert printed["name"] == "3.10"
    assert printed["dir"] == f"/somewhere/粤语 {Config.artifacts}${{x}}"


def test_artifacts_go_into_the_project_unless_set_otherwise() -> None:
    assert one().artifacts == str(ROOT / "artifacts")


@pytest.mark.parametrize("word", ["onnx.opsett=17", "+onnx.opsett=17", "++onnx.opsett=17"])
def test_an_unknown_key_is_refused_in_every_form_with_the_nearest_one(word: str) -> None:
    (problem,) = problems(word)
    assert problem.endswith("no such setting; did you mean onnx.opset?")


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    (problem,) = problems("model=cosyvoice22")
    assert "no such model; choose from" in problem
    assert problem.endswith("did you mean cosyvoice2?")


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("onnx.opset=99", "onnx.opset=99: out of range"),
        ("onnx.opset=abc", "could not be converted to Integer"),
        ("onnx.exporter=tracing", "tracing"),
        ("onnx={exporter: dynamo, opset: 17}", "Set onnx.exporter=torchscript"),
        ("onnx={exporter: torchscript, opset: 21}", "Set onnx.exporter=dynamo"),
        ("average.num=0", "average.num=0: out of range"),
        ("verify.trials=0", "verify.trials=0: out of range"),
        ("train.lr=-1", "train.lr=-1"),
        ("model.axes.frames.min=600", "model.axes.frames: needs 1 <= min <= opt <= max"),
        ("model.axes.frames.opt=5000", "got min=4, opt=5000"),
        ("precision.name=fp16", "precision=NAME"),
        ("tensorrt.profile.framez=[1,2,3]", "framez"),
        ("model.checkpoints.flo=/data/flow", "model.checkpoints.flo: no such part; the model has flow"),
        ("model.name=../elsewhere", "model.name=../elsewhere: must be a folder name"),
        ("model.name=.voxkiln", "model.name=.voxkiln: must be a folder name"),
        ("model.name=", "model.name=: must be a folder name"),
        ("verify.atol=inf", "verify.atol=inf: out of range; allowed: 0 or more"),
        ("verify.min_snr_db=-inf", "verify.min_snr_db=-inf: out of range; allowed: any finite number"),
        ("verify.seed=99999999999999999999", "verify.seed=99999999999999999999: out of range"),
        ("vllm.min_cosine=nan", "vllm.min_cosine=nan: out of range; allowed: -1 to 1"),
        ("++model.components.flow_encoder.options.x=nan", "options.x=nan: out of range; allowed: any finite number"),
        ("model.axes.frames.max=9999999999", "model.axes.frames.max=9999999999: out of range"),
        ("model=null", "model=null: no such model; choose from"),
        ("model={a: 1}", "no such model; choose from"),
        ("~model", "~model: no such model; choose from"),
        ("onnx=null", "onnx"),
        ("onnx=17", "onnx"),
        ("model.components.flow_encoder.chunked={x: 1}", "model.components.flow_encoder.chunked"),
        ("model.components.flow_encoder.inputs.xs.shape=[a,[b,[c]]]", "model.components.flow_encoder.inputs.xs.shape"),
        ("++model.components.flow_encoder.inputs.xs.shape=[a,null]", "model.components.flow_encoder.inputs.xs.shape"),
        ("onnx.keep_fp32=Soft max", "onnx.keep_fp32=Soft max: needs a list: 'onnx.keep_fp32=[Soft max]'"),
        (
            "artifacts=~nosuchuser/x",
            "there is no user nosuchuser; for a file or folder of this name, write './~nos",
        ),
        ("artifacts=", "artifacts: is empty; name a file or folder"),
        (f"artifacts={'a' * 300}", "File name too long"),
        (f"model.name={'a' * 300}", "has 300 bytes; allowed: 120 or less"),
        (f"artifacts={'/a' * 3000}", "File name too long"),
        ("artifacts=${nope}", "nope"),
        (f"onnx.exporter={'a' * 100_000}", "longer than 20,000 characters"),
        ("model.name=a\nb", "model.name=a\\nb: must be a folder name"),
        ("model.axes={}", "model.axes={}: an empty mapping changes nothing; to remove an entry, set ~model.axes.NAME="),
        ("model.training.part=x", "model.training.part=x: not among model.parts (flow)"),
        ("hydra.run.dir=x", "Hydra's own settings have no effect here"),
        (
            "tensorrt.profile.tokens=[4,5,6]",
            "tensorrt.profile.tokens: no such axis; axes of the TensorRT components: batch, frames",
        ),
        ("model.axes.batch.max=33", "model.axes.batch=[2, 2, 33]: 33 not a multiple of 2"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(word: str, part: str) -> None:
    (problem,) = problems(word)
    assert part in problem
    assert "\n" not in problem


def test_text_in_the_place_of_a_mapping_is_refused() -> None:
    (problem,) = problems("++model.components.new=${artifacts}")
    assert problem.startswith("model.components.new=artifacts: needs a mapping with name, part, loader")


def test_a_model_has_one_folder_for_vllm() -> None:
    (problem,) = problems("model=cosyvoice2", "model.components.hift.formats=[vllm]")
    assert problem == "model.components.hift.formats: vllm is also a format of llm; a model has one such folder"


def test_all_problems_are_listed_at_once_each_in_one_line() -> None:
    words = ["onnx.opsett=3", "model=nix", "verify.rtol=abc", "onnx.opset=99", "+onnx.nil=2", "average.num=0", "a=[1"]
    found = problems(*words)
    assert len(found) == len(words)
    assert all("\n" not in problem for problem in found)


def test_a_sweep_names_the_problem_of_each_value_once() -> None:
    assert len(problems("onnx.opset=98,99", "precision=fp32,fp16")) == 2
