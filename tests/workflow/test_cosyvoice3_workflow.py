"""The whole reference folder of CosyVoice 3 through doit: every artifact against every recorded case."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tasks.errors import UserError
from tasks.models.cosyvoice.folder import load_component, load_part
from tasks.models.cosyvoice.llm import vllm_loader
from tasks.runtimes.onnxruntime_.session import open_artifact
from tasks.settings.component import ComponentSpec
from tests.support.flow_cases import run_inference
from tests.support.folders import component, config_of, weights_of
from tests.support.generations import QUICK_AND_THOROUGH, Generation, generation, project_for
from tests.support.golden_cases import GOLDEN, golden_case, golden_names
from tests.support.replay import worst

FAMILY = "cosyvoice3"
ESTIMATOR = "flow.decoder.estimator"
TOLERANCE = {"fp32": 2e-4, "fp16": 2e-2}  # absolute; velocities are of size 1
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
DIT = component(ESTIMATOR)
LANGUAGE_MODEL = component("llm")
PRECISIONS = pytest.mark.parametrize("precision", ["fp32", "fp16"])


@pytest.fixture(scope="session", params=QUICK_AND_THOROUGH)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generation:
    """All artifacts of the recorded folder."""
    return generation(tmp_path_factory, FAMILY, request.param)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the reference folder, to be changed."""
    ignore = shutil.ignore_patterns("golden*", "frontend*", "hift.pt")
    return Path(shutil.copytree(GOLDEN / FAMILY, tmp_path / "model", ignore=ignore))


def run(path: Path, precision: str = "fp32", **inputs: Tensor) -> Tensor:
    given = {name: value.to(DTYPES[precision]) for name, value in inputs.items()}
    return open_artifact(path, device="cpu", threads=1)(given)[0]


def estimator_cases(kind: str) -> list[str]:
    return [name for name in golden_names(FAMILY, "est_L") if name.endswith(kind)]


def recorded_inputs(name: str) -> dict[str, Tensor]:
    inputs = golden_case(FAMILY, name).inputs
    return inputs | {"t": inputs["t"].expand(inputs["x"].size(0))}


def velocity(path: Path, name: str) -> float:
    """How far the file is from a recorded case."""
    return worst(run(path, **recorded_inputs(name)), golden_case(FAMILY, name).outputs["y"])


@pytest.mark.parametrize("name", estimator_cases("_full"))
def test_estimator_gives_the_recorded_velocity(made: Generation, name: str) -> None:
    assert velocity(made.estimators / f"{ESTIMATOR}.fp32.onnx", name) <= TOLERANCE["fp32"]


def test_estimator_in_fp16_is_near_that_in_fp32_at_the_recorded_cases(made: Generation) -> None:
    """On the same rounded inputs: a time rounded to fp16 is another time, by 0.1 rad at the fastest frequency."""
    for name in estimator_cases("_full"):
        inputs = {key: value.half() for key, value in recorded_inputs(name).items()}
        found, expected = (run(made.estimators / f"{ESTIMATOR}.{p}.onnx", p, **inputs) for p in ("fp16", "fp32"))
        assert worst(found, expected) <= TOLERANCE["fp16"], name


@pytest.mark.parametrize("name", estimator_cases("_stream"))
def test_streaming_estimator_gives_the_recorded_velocity(made: Generation, name: str) -> None:
    assert velocity(made.streaming / f"{ESTIMATOR}.fp32.onnx", name) <= TOLERANCE["fp32"]


def test_files_and_receipts_say_whether_they_stream(made: Generation) -> None:
    for folder, flag in ((made.estimators, False), (made.streaming, True)):
        path = folder / f"{ESTIMATOR}.fp32.onnx"
        notes = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
        receipt = json.loads(path.with_name(f"{path.name}.receipt.json").read_text())
        assert json.loads(notes["voxkiln.options"]) == {"streaming": flag}
        assert receipt["ingredients"]["params"]["component"]["options"] == {"streaming": flag}


def test_what_stays_in_fp32_is_in_the_receipt(made: Generation) -> None:
    receipt = json.loads((made.estimators / f"{ESTIMATOR}.fp16.onnx.receipt.json").read_text())
    kept = receipt["results"]["operators_kept_fp32"]
    assert {"LayerNormalization", "Softmax", "Mish", "Sin", "Cos"} <= kept.keys()
    assert not {"MatMul", "Gemm", "Conv"} & kept.keys()
    assert receipt["results"]["kept_for_range"] == 0


def test_vocoder_gives_the_recorded_waveform(made: Generation) -> None:
    (mel,) = golden_case(FAMILY, "hift_f0_final").inputs.values()
    source = golden_case(FAMILY, "hift_source_final").outputs["sine_merge"].reshape(mel.size(0), mel.size(2), -1)
    found = run(made.whole / "hift.fp32.onnx", mel=mel, source=source)
    assert worst(found, golden_case(FAMILY, "hift_decode_final").outputs["wav"]) <= 1e-3


@PRECISIONS
def test_look_ahead_gives_the_recorded_outputs_with_and_without_context(made: Generation, precision: str) -> None:
    layer = torch.jit.load(made.whole / f"flow.pre_lookahead_layer.{precision}.zip")
    for name in golden_names(FAMILY, "pre_lookahead"):
        case = golden_case(FAMILY, name)
        with torch.no_grad():
            found = layer(*(value.to(DTYPES[precision]) for value in case.inputs.values()))
        assert worst(found, next(iter(case.outputs.values()))) <= TOLERANCE[precision]


def test_flow_with_artifacts_in_it_gives_the_recorded_mels(made: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, streaming and growing: the folder's look-ahead and both estimators in their places."""
    name = f"{ESTIMATOR}.fp32.onnx"
    files = {False: made.estimators / name, True: made.streaming / name}
    sessions = {flag: open_artifact(path, device="cpu", threads=1) for flag, path in files.items()}
    names = ("x", "mask", "mu", "t", "spks", "cond")
    flow = load_part("flow", config=config_of(FAMILY), weights=weights_of(FAMILY))
    flow.pre_lookahead_layer = torch.jit.load(made.whole / "flow.pre_lookahead_layer.fp32.zip")
    monkeypatch.setattr(
        type(flow.decoder.estimator),
        "forward",
        lambda _, *inputs, streaming=False: sessions[streaming](dict(zip(names, inputs, strict=True)))[0],
    )
    for name in golden_names(FAMILY, "flow_inference"):
        assert worst(run_inference(flow, FAMILY, name), golden_case(FAMILY, name).outputs["mel"]) <= 1e-3


def test_the_folder_for_vllm_is_there_with_its_report(made: Generation) -> None:
    folder = made.whole
    files = {"config.json", "generation_config.json", "model.safetensors"}
    assert {path.name for path in (folder / "vllm").iterdir()} == files
    receipt = json.loads((folder / "vllm.receipt.json").read_text())
    assert receipt["outputs"].keys() == {f"vllm/{name}" for name in files}
    assert receipt["results"]["dtype"] == "bfloat16"
    assert json.loads((folder / "verify" / "vllm.json").read_text())["worst"]["exact_snr_db"] > 100


def test_the_vocoder_is_skipped_in_fp16_with_the_precision_it_has(model: Path, tmp_path: Path) -> None:
    for name in ("llm.pt", "flow.pt"):
        (model / name).unlink()
    shutil.copy(GOLDEN / FAMILY / "hift.pt", model)
    result = project_for(FAMILY, tmp_path / "artifacts", folder=model).doit("export_onnx", "precision=fp16")
    assert result.code == 0, result.out + result.err
    assert re.search(r"^skip +export_onnx:cosyvoice3/hift.fp16 .*fp32", result.out, re.MULTILINE)
    assert not result.steps("build")


def change_weights(model: Path, part: str, change: Callable[[dict[str, Tensor]], None]) -> None:
    weights = torch.load(model / f"{part}.pt", weights_only=True)
    change(weights)
    torch.save(weights, model / f"{part}.pt")


def make_loud(weights: dict[str, Tensor]) -> None:
    """A residual stream that fp16 cannot hold: what NaN in fp16 comes from."""
    for name in ("weight", "bias"):
        weights[f"decoder.estimator.transformer_blocks.0.ff.ff.2.{name}"] *= 3e6


def test_a_residual_stream_beyond_fp16_is_kept_in_fp32_and_verified(model: Path, tmp_path: Path) -> None:
    change_weights(model, "flow", make_loud)
    naive = load_component(DIT, config=model / "cosyvoice3.yaml", weights=model / "flow.pt").half()
    case = golden_case(FAMILY, estimator_cases("_full")[0])
    with torch.no_grad():
        assert not naive(**{name: value.half() for name, value in case.inputs.items()}).isfinite().all()
    steps = [f"{stage}_onnx:{FAMILY}/{ESTIMATOR}.fp16" for stage in ("export", "verify")]
    result = project_for(FAMILY, tmp_path / "artifacts", folder=model).doit(*steps, "precision=fp16")
    assert result.code == 0, result.out + result.err
    receipt = json.loads((tmp_path / "artifacts" / FAMILY / f"{ESTIMATOR}.fp16.onnx.receipt.json").read_text())
    assert receipt["results"]["kept_for_range"] > 0
    assert "Add" in receipt["results"]["operators_kept_fp32"]


def message(model: Path, folder: Path, *words: str) -> str:
    """What a failing command prints; it leaves no artifact and no traceback."""
    result = project_for(FAMILY, folder / "artifacts", folder=model).doit(*words)
    assert result.code == 1, result.out + result.err
    assert "Traceback" not in result.out + result.err
    assert [path for path in (folder / "artifacts" / FAMILY).rglob("*") if path.is_file()] == []
    return result.out


def test_a_missing_qwen_folder_is_an_error_where_vllm_is_asked_for_and_a_skip_elsewhere(
    model: Path, tmp_path: Path
) -> None:
    shutil.rmtree(model / "CosyVoice-BlankEN")
    text = message(model, tmp_path, "export_vllm")
    assert "CosyVoice-BlankEN/config.json" in text
    result = project_for(FAMILY, tmp_path / "artifacts", folder=model).doit("average", "export_jit")
    assert result.code == 0, result.out + result.err


def test_a_tokenizer_of_another_model_is_refused_with_both_sizes(model: Path) -> None:
    change_rows(model, 600)
    text = refusal(vllm_loader.load_component, LANGUAGE_MODEL, model, "llm")
    assert all(size in text for size in ("601", "600"))


def refusal(load: Any, wanted: ComponentSpec, model: Path, part: str) -> str:
    """Why a component cannot be loaded."""
    with pytest.raises(UserError) as caught:
        load(wanted, config=model / "cosyvoice3.yaml", weights=model / f"{part}.pt")
    return str(caught.value)


def change_rows(model: Path, rows: int) -> None:
    """A text embedding of another size, in the configuration and in the weights."""

    def cut(weights: dict[str, Tensor]) -> None:
        for name in ("llm.model.model.embed_tokens.weight", "llm.model.lm_head.weight"):
            weights[name] = weights[name][:rows].clone()

    change_weights(model, "llm", cut)
    path = model / "CosyVoice-BlankEN" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": rows}))


def test_weights_of_another_size_than_the_qwen_configuration_are_refused(model: Path) -> None:
    path = model / "CosyVoice-BlankEN" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 100}))
    text = refusal(vllm_loader.load_component, LANGUAGE_MODEL, model, "llm")
    assert all(part in text for part in ("llm.pt", "mlp.gate_proj.weight", "(100, 64)")), text


@pytest.mark.parametrize(
    ("classes", "load", "wanted", "place"),
    [
        (
            ("llm.CosyVoice3LM", "llm.Qwen2LM"),
            vllm_loader.load_component,
            LANGUAGE_MODEL,
            r"/llm\.pt: .*cosyvoice3\.yaml:\d+, cosyvoice\.llm\.llm\.Qwen2LM",
        ),
        (("DiT.dit.DiT", "decoder.CausalConditionalDecoder"), load_component, DIT, r"cosyvoice3\.yaml:\d+: "),
    ],
)
def test_a_class_that_the_weights_or_options_are_not_of_is_refused_with_the_place(
    model: Path, classes: tuple[str, str], load: Any, wanted: ComponentSpec, place: str
) -> None:
    path = model / "cosyvoice3.yaml"
    text = path.read_text()
    assert classes[0] in text
    path.write_text(text.replace(*classes))
    assert re.search(place, refusal(load, wanted, model, wanted.part))


def test_averaged_language_models_are_what_is_exported(model: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    weights = torch.load(model / "llm.pt", weights_only=True)
    for epoch in range(2):
        state = {name: tensor + epoch for name, tensor in weights.items()}
        torch.save(state | {"epoch": epoch, "step": epoch}, checkpoints / f"epoch_{epoch}_whole.pt")
        text = f"epoch: {epoch}\nstep: {epoch}\ntag: CV\nloss_dict: {{loss: {epoch}.5}}\n"
        (checkpoints / f"epoch_{epoch}_whole.yaml").write_text(text)
    words = (f"model.checkpoints.llm={checkpoints}", "average.num=2")
    result = project_for(FAMILY, tmp_path / "artifacts", folder=model).doit("export_vllm", *words)
    assert result.steps("done") == {"average:cosyvoice3/llm", "export_vllm:cosyvoice3/llm"}, result.out + result.err
    served = load_file(tmp_path / "artifacts" / FAMILY / "vllm" / "model.safetensors")
    expected = (weights["speech_embedding.weight"] + 0.5).to(torch.bfloat16)
    assert torch.equal(served["model.embed_tokens.weight"], expected)
