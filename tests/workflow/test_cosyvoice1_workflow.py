"""The whole reference folder of CosyVoice 1 through doit: every artifact against every recorded case."""

import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tasks.models.cosyvoice.folder import load_part
from tests.support.checkpoints import write_checkpoints
from tests.support.flow_cases import LENGTHS
from tests.support.folders import config_of, weights_of
from tests.support.generations import Generation
from tests.support.golden_cases import GOLDEN, golden_case, golden_names, golden_tensor
from tests.support.isolated_zips import Call, call_isolated
from tests.support.project import Project
from tests.support.replay import replay_draws, worst
from tests.support.speech_lm_cases import greedy_until

FAMILY = "cosyvoice1"
SCRIPTED = ("llm.text_encoder", "llm.llm", "flow.encoder")
Returned = dict[tuple[str, str], list[tuple[Tensor, ...]]]
PRECISIONS = pytest.mark.parametrize("precision", ["fp32", "fp16"])
# Numbers of 4 to 8 are 0.004 apart in fp16; hidden states and caches of that size have been rounded some ten times.
ZIP_TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
# A velocity has been rounded a hundred times: 1 % of its largest value of 4, doubled.
VELOCITY_TOLERANCE = {"fp32": 2e-4, "fp16": 8e-2}
ONNX_TOLERANCE = {"fp32": 2e-4, "fp16": 2e-2}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
CHUNKS = ("llm_chunk0", "llm_chunk1", "llm_chunk2", "llm_chunk3")
NO_CACHE = {"att_cache": torch.zeros(0, 0, 0, 0), "cnn_cache": torch.zeros(0, 0, 0, 0)}


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def in_precision(values: dict[str, Any], precision: str) -> dict[str, Any]:
    """The floats among them in a file's number format."""
    return {
        name: value.to(DTYPES[precision]) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in values.items()
    }


def chunk(name: str, precision: str, **cache: Tensor) -> Call:
    case = golden_case(FAMILY, name)
    fixed = {"offset": case.flags.get("offset", 0), "required_cache_size": case.flags.get("required_cache_size", -1)}
    arguments = in_precision({"xs": case.inputs["xs"], "att_mask": case.inputs["att_mask"], **cache}, precision)
    return Call(arguments | fixed, "forward_chunk", () if cache else tuple(NO_CACHE))


def whole(name: str, precision: str, **options: int) -> Call:
    return Call(in_precision(golden_case(FAMILY, name).inputs, precision) | options)


def calls_of(component: str, precision: str) -> dict[str, Call]:
    """Every recorded case of a component that has a TorchScript file, in an order that grows the cache."""
    if component == "llm.text_encoder":
        return {
            "text_encoder": whole("text_encoder", precision, decoding_chunk_size=1, num_decoding_left_chunks=-1),
        }
    if component == "flow.encoder":
        return {"flow_encoder": whole("flow_encoder", precision)}
    first, *later = CHUNKS
    before = {"att_cache": golden_tensor(FAMILY, "llm_chunk3.out.att_cache"), "cnn_cache": NO_CACHE["cnn_cache"]}
    return {
        "llm_forward": whole("llm_forward", precision),
        first: chunk(first, precision, **NO_CACHE),
        **{name: chunk(name, precision) for name in later},
        "llm_chunk_req6": chunk("llm_chunk_req6", precision, **before),
    }


@pytest.fixture(scope="module")
def returned(cosyvoice1: Generation, tmp_path_factory: pytest.TempPathFactory) -> Returned:
    """What each file returned, called where this project cannot be imported: component and precision -> results."""
    named = {(c, p): cosyvoice1.whole / f"{c}.{p}.zip" for c in SCRIPTED for p in DTYPES}
    calls = {path: list(calls_of(*key).values()) for key, path in named.items()}
    results = call_isolated(calls, tmp_path_factory.mktemp("isolated"))
    return {key: results[path] for key, path in named.items()}


@PRECISIONS
@pytest.mark.parametrize("component", SCRIPTED)
def test_zip_gives_the_recorded_outputs_where_this_project_cannot_be_imported(
    returned: Returned, component: str, precision: str
) -> None:
    for name, outputs in zip(calls_of(component, precision), returned[component, precision], strict=True):
        recorded = golden_case(FAMILY, name).outputs
        for found, expected in zip(outputs, recorded.values(), strict=False):  # an empty cnn_cache is not recorded
            assert worst(found, expected) <= ZIP_TOLERANCE[precision], name


class Session:
    """An ONNX file, called with tensors by name."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, **inputs: Tensor) -> list[Tensor]:
        arrays = {name: value.numpy() for name, value in inputs.items()}
        return [torch.from_numpy(array) for array in self._session.run(None, arrays)]


@PRECISIONS
def test_onnx_estimator_gives_every_recorded_velocity(cosyvoice1: Generation, precision: str) -> None:
    session = Session(cosyvoice1.estimators / f"flow.decoder.estimator.{precision}.onnx")
    for name in golden_names(FAMILY, "est_L"):
        case = golden_case(FAMILY, name)
        (found,) = session(**in_precision(case.inputs, precision))
        assert worst(found, case.outputs["y"]) <= VELOCITY_TOLERANCE[precision], name


@PRECISIONS
def test_onnx_encoder_gives_the_recorded_hidden_states_and_mask(cosyvoice1: Generation, precision: str) -> None:
    case = golden_case(FAMILY, "flow_encoder")
    hidden, mask = Session(cosyvoice1.whole / f"flow.encoder.{precision}.onnx")(**in_precision(case.inputs, precision))
    assert worst(hidden, case.outputs["ys"]) <= ONNX_TOLERANCE[precision]
    assert torch.equal(mask, case.outputs["masks"])


def test_onnx_vocoder_gives_the_recorded_waveforms(cosyvoice1: Generation) -> None:
    session = Session(cosyvoice1.whole / "hift.fp32.onnx")
    decoded = golden_case(FAMILY, "hift_decode")
    spoken, mel = golden_case(FAMILY, "hift_inference").outputs, golden_case(FAMILY, "hift_f0").inputs["mel"]
    cases = [
        (decoded.inputs["mel"], decoded.inputs["s"], decoded.outputs["wav"]),
        (mel, spoken["source"], spoken["wav"]),
    ]
    for mel, source, expected in cases:
        (found,) = session(mel=mel, source=source.view(mel.size(0), mel.size(2), -1))
        assert worst(found, expected) <= ONNX_TOLERANCE["fp32"]


def test_onnx_inputs_are_in_the_original_order(cosyvoice1: Generation) -> None:
    """TensorRT deployments bind by position."""
    graph = onnx.load(cosyvoice1.estimators / "flow.decoder.estimator.fp32.onnx").graph
    assert [value.name for value in graph.input] == ["x", "mask", "mu", "t", "spks", "cond"]
    assert [value.name for value in graph.output] == ["estimator_out"]


class Estimator(nn.Module):
    """An ONNX file in the place of the module it was made from."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._session = Session(path)

    def forward(self, *inputs: Tensor, streaming: bool) -> Tensor:
        names = ("x", "mask", "mu", "t", "spks", "cond")
        return self._session(**dict(zip(names, inputs, strict=True)))[0]


def test_flow_with_artifacts_in_it_gives_the_recorded_mels(
    cosyvoice1: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = load_part("flow", config=config_of(FAMILY), weights=weights_of(FAMILY))
    flow.encoder = torch.jit.load(cosyvoice1.whole / "flow.encoder.fp32.zip")
    flow.decoder.estimator = Estimator(cosyvoice1.estimators / "flow.decoder.estimator.fp32.onnx")
    for name in golden_names(FAMILY, "flow_inference"):
        case = golden_case(FAMILY, name)
        replay_draws(monkeypatch, case.draws)
        lengths = {f"{key}_len": torch.tensor([case.inputs[key].size(1)], dtype=torch.int32) for key in LENGTHS}
        mel, cache = flow.inference(**case.inputs, **lengths)
        assert worst(mel, case.outputs["mel"]) <= 1e-3
        assert worst(cache, case.outputs["flow_cache"]) <= 1e-3


def test_language_model_with_artifacts_in_it_speaks_the_recorded_tokens(
    cosyvoice1: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_part("llm", config=config_of(FAMILY), weights=weights_of(FAMILY, "llm"))
    model.text_encoder = torch.jit.load(cosyvoice1.whole / "llm.text_encoder.fp32.zip")
    model.llm = torch.jit.load(cosyvoice1.whole / "llm.llm.fp32.zip")
    monkeypatch.setattr(model.text_encoder, "output_size", lambda: 48, raising=False)
    model.sampling = greedy_until(12, eos=model.eos, speech_tokens=60)
    case = golden_case(FAMILY, "lm_inference_emb")
    tokens = model.inference(**case.inputs, sampling=25, max_token_text_ratio=4, min_token_text_ratio=2)
    assert list(tokens) == case.outputs["tokens"].tolist()


@PRECISIONS
@pytest.mark.parametrize("component", SCRIPTED)
def test_zip_holds_every_weight_once_and_no_positional_table(
    cosyvoice1: Generation, component: str, precision: str
) -> None:
    part, prefix = component.split(".", maxsplit=1)
    weights = torch.load(weights_of(FAMILY, part), weights_only=True)
    of_component = [value for name, value in weights.items() if name.startswith(f"{prefix}.")]
    expected = sum(value.numel() for value in of_component) * DTYPES[precision].itemsize
    with zipfile.ZipFile(cosyvoice1.whole / f"{component}.{precision}.zip") as archive:
        records = {record.filename: record.file_size for record in archive.infolist()}
    tensors = sum(size for name, size in records.items() if re.match(r"archive/(data|constants)/", name))
    frequencies = weights[f"{prefix}.after_norm.weight"].numel() // 2 * torch.float32.itemsize  # in every precision
    assert 0.99 * expected <= tensors <= expected + frequencies
    assert max(records.values()) <= max(value.numel() for value in of_component) * DTYPES[precision].itemsize + 100_000


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(GOLDEN.parent.parent, (f"artifacts={tmp_path / 'artifacts'}",))


@pytest.mark.parametrize(
    ("setting", "folder", "right"),
    [("cosyvoice", "cosyvoice2", "cosyvoice2"), ("cosyvoice2", "cosyvoice1", "cosyvoice")],
)
def test_a_folder_of_another_family_names_the_right_setting(
    project: Project, setting: str, folder: str, right: str
) -> None:
    result = project.doit(f"model={setting}", f"model.dir={GOLDEN / folder}")
    assert result.code == 3
    assert f"{setting}.yaml" in result.err
    assert f"model={right}" in result.err.split()
    assert "Traceback" not in result.err


def test_the_vocoder_is_skipped_in_fp16_with_the_precision_it_has(project: Project, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("cosyvoice.yaml", "hift.pt"):
        shutil.copy(GOLDEN / FAMILY / name, model)
    result = project.doit("export_onnx", "model=cosyvoice", f"model.dir={model}", "precision=fp16")
    assert result.code == 0, result.out + result.err
    assert re.search(r"^skip +export_onnx:cosyvoice/hift.fp16 .*fp32", result.out, re.MULTILINE)
    assert not result.steps("build")


def test_checkpoints_of_every_part_are_averaged(project: Project, tmp_path: Path) -> None:
    parts = ("llm", "flow", "hift")
    for part in parts:
        write_checkpoints(tmp_path / part, GOLDEN / FAMILY / f"{part}.pt", losses=[2.0, 1.0, 3.0])
    words = [f"model.checkpoints.{part}={tmp_path / part}" for part in parts]
    result = project.doit("average", "model=cosyvoice", f"model.dir={GOLDEN / FAMILY}", "average.num=2", *words)
    assert result.code == 0, result.out + result.err
    for part in parts:
        averaged = torch.load(tmp_path / "artifacts" / "cosyvoice" / "averaged" / f"{part}.pt", weights_only=True)
        best = [torch.load(tmp_path / part / f"epoch_{epoch}_whole.pt", weights_only=True) for epoch in (0, 1)]
        for name, value in averaged.items():
            assert worst(value, (best[0][name] + best[1][name]) / 2) <= 1e-6, name


def only_flow(folder: Path) -> Path:
    folder.mkdir()
    for name in ("cosyvoice.yaml", "flow.pt"):
        shutil.copy(GOLDEN / FAMILY / name, folder)
    return folder


def test_a_folder_with_only_its_flow_becomes_the_flows_artifacts(project: Project, tmp_path: Path) -> None:
    result = project.doit("export_jit", "model=cosyvoice", f"model.dir={only_flow(tmp_path / 'model')}")
    assert result.code == 0, result.out + result.err
    assert result.steps("done") == {"export_jit:cosyvoice/flow.encoder.fp32"}
    assert re.search(r"^skip +export_jit:cosyvoice/llm.llm.fp32 .*llm\.pt", result.out, re.MULTILINE)


def test_asking_by_name_for_what_the_folder_does_not_have_is_an_error(project: Project, tmp_path: Path) -> None:
    step = "export_onnx:cosyvoice/hift.fp32"
    result = project.doit(step, "model=cosyvoice", f"model.dir={only_flow(tmp_path / 'model')}")
    assert result.code == 1
    assert result.steps("FAIL") == {step}
    assert "hift.pt" in result.out
