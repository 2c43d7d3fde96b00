"""The folder for vLLM: exactly the recorded one, the model untouched, and nothing wrong in it goes unnoticed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tasks.actions import export_vllm
from tasks.actions.verify import vllm as verify_vllm
from tasks.job import Job
from tasks.models.cosyvoice.folder import load_part
from tasks.plain_data import plain
from tasks.settings.compose import load
from tests.support.errors import error_of
from tests.support.folders import config_of, weights_of
from tests.support.golden_cases import GOLDEN, golden_record
from tests.support.made_once import made_once

FAMILIES = pytest.mark.parametrize("family", ["cosyvoice2", "cosyvoice3"])
LIMITS = plain(load((), workdir=GOLDEN)[0].vllm) | {"trials": 2, "max_positions": 40}
FILES = ("config.json", "generation_config.json", "model.safetensors")


def component(family: str) -> dict[str, Any]:
    (config,) = load((f"model={family}", f"model.dir={GOLDEN / family}"), workdir=GOLDEN)
    return plain(config.model.components["llm"])


def sources(family: str) -> dict[str, Path]:
    qwen = GOLDEN / family / "CosyVoice-BlankEN"
    return {"config": config_of(family), "weights": weights_of(family, "llm")} | {
        name: qwen / name for name in FILES[:2]
    }


def exported_to(folder: Path, family: str) -> dict[str, Any]:
    outputs = {name: folder / name for name in FILES}
    return export_vllm.run(Job("export_vllm:x/llm", "", sources(family), outputs, {"component": component(family)}))


def verified(folder: Path, report: Path, family: str = "cosyvoice2") -> dict[str, Any]:
    inputs = sources(family) | {f"vllm/{name}": folder / name for name in FILES}
    params = {"component": component(family), "vllm": LIMITS, "device": "cpu"}
    return verify_vllm.run(Job("verify_vllm:x/llm", "", inputs, {"report": report}, params))


@pytest.fixture
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    def make(root: Path) -> None:
        for family in ("cosyvoice2", "cosyvoice3"):
            (root / family).mkdir()
            exported_to(root / family, family)

    made = made_once(tmp_path_factory, "vllm", make)
    return {family: made / family for family in ("cosyvoice2", "cosyvoice3")}


@pytest.fixture
def damaged(folders: dict[str, Path], tmp_path: Path) -> Callable[[Callable[[Path], None]], str]:
    """What verification says of a copy of the folder after something was done to it."""

    def damage(change: Callable[[Path], None]) -> str:
        folder = Path(shutil.copytree(folders["cosyvoice2"], tmp_path / "vllm"))
        change(folder)
        error = error_of(verified, folder, tmp_path / "report.json")
        assert not (tmp_path / "report.json").exists()
        return str(error)

    return damage


@FAMILIES
def test_the_folder_has_the_recorded_files_configuration_and_tensors(folders: dict[str, Path], family: str) -> None:
    recorded = golden_record(family)["vllm_export"]
    assert sorted(path.name for path in folders[family].iterdir()) == sorted(recorded["files"])
    assert json.loads((folders[family] / "config.json").read_text()) == recorded["config"]
    tensors = load_file(folders[family] / "model.safetensors")
    assert {name: [list(t.shape), str(t.dtype)] for name, t in tensors.items()} == recorded["tensors"]


@FAMILIES
def test_every_tensor_is_the_original_in_bf16(folders: dict[str, Path], family: str) -> None:
    original = torch.load(weights_of(family, "llm"), weights_only=True)
    names = {"model.embed_tokens.weight": "speech_embedding.weight"}
    names |= {f"lm_head.{name}": f"llm_decoder.{name}" for name in ("weight", "bias")}
    for name, tensor in load_file(folders[family] / "model.safetensors").items():
        source = names.get(name, f"llm.model.{name}")
        assert torch.equal(tensor, original[source].to(torch.bfloat16)), name


@FAMILIES
def test_no_end_of_text_is_left_where_ids_are_speech(folders: dict[str, Path], family: str) -> None:
    for name in ("config.json", "generation_config.json"):
        assert not {"bos_token_id", "eos_token_id"} & json.loads((folders[family] / name).read_text()).keys()


def test_a_configuration_of_newer_transformers_leaves_one_dtype() -> None:
    model: Any = load_part("llm", config=config_of("cosyvoice3"), weights=weights_of("cosyvoice3", "llm"))
    served = model.vllm_config({"dtype": "float32", "hidden_size": 64})
    assert (served["torch_dtype"], served.get("dtype")) == ("bfloat16", None)


@FAMILIES
def test_the_live_model_is_not_changed_by_exporting_it(family: str) -> None:
    model: Any = load_part("llm", config=config_of(family), weights=weights_of(family, "llm"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config, head = model.llm.model.config.to_dict(), model.llm.model.lm_head
    served = model.vllm_tensors()
    model.vllm_config({"vocab_size": 1})
    for tensor in served.values():
        tensor.zero_()
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(after[name].dtype == torch.float32 and torch.equal(after[name], before[name]) for name in before)
    assert model.llm.model.lm_head is head
    assert model.llm.model.config.to_dict() == config


def test_two_exports_are_the_same_bytes_and_readable_like_any_file(folders: dict[str, Path], tmp_path: Path) -> None:
    exported_to(tmp_path, "cosyvoice2")
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (folders["cosyvoice2"] / name).read_bytes()
        assert (tmp_path / name).stat().st_mode == (tmp_path / "config.json").stat().st_mode


@FAMILIES
def test_loaded_back_it_is_the_same_model_and_as_near_as_bf16_can_be(
    folders: dict[str, Path], tmp_path: Path, family: str
) -> None:
    facts = verified(folders[family], tmp_path / "report.json", family)
    assert facts["exact_snr_db"] > 100
    assert 25 < facts["snr_db"] < 60
    assert json.loads((tmp_path / "report.json").read_text())["passed"]


@pytest.mark.parametrize(
    ("key", "value"), [("rope_theta", 10000.0), ("rms_norm_eps", 1e-2), ("num_attention_heads", 2), ("use_bias", False)]
)
def test_a_wrong_number_in_the_configuration_is_noticed(
    damaged: Callable[[Callable[[Path], None]], str], key: str, value: Any
) -> None:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {key: value}))

    assert "not the same model" in damaged(change)


def test_a_wrong_weight_is_named(damaged: Callable[[Callable[[Path], None]], str]) -> None:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"][3] += 1
        save_file(tensors, folder / "model.safetensors")

    assert "1 tensors are not the original's in bf16 (got model.norm.weight)" in damaged(change)


def test_a_missing_weight_is_named(damaged: Callable[[Callable[[Path], None]], str]) -> None:
    def change(folder: Path) -> None:
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys() if name != "lm_head.bias"}  # noqa: SIM118
        save_file(tensors, folder / "model.safetensors")

    assert "lm_head.bias" in damaged(change)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_configuration_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    inputs = sources("cosyvoice2") | {"config.json": tmp_path / "config.json"}
    job = Job("export_vllm:x/llm", "", inputs, {}, {"component": component("cosyvoice2")})
    assert error_of(export_vllm.run, job).where == str(tmp_path / "config.json")
