"""A method that takes a sequence chunk by chunk is compared with the module's, and errors in its cache are noticed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.actions.export_torchscript import action as export_torchscript
from tasks.actions.verify import compare
from tasks.errors import UserError
from tasks.job import Job
from tasks.pipeline.graph import build
from tasks.pipeline.graph_inputs import GraphInputs, Machine
from tasks.pipeline.stages.table import STAGES
from tasks.pipeline.step import Step
from tasks.runtimes.torchscript import TorchScriptModule
from tasks.settings.compose import load
from tests.support.folders import random_folder
from tests.support.golden_cases import GOLDEN

Change = Callable[[dict[str, Any]], dict[str, Any]]


def steps(artifacts: Path, precision: str, folder: Path = GOLDEN / "cosyvoice1") -> dict[str, Step]:
    """Export and verification of a language model, the recorded one by default, as a user's settings give them."""
    words = ["model=cosyvoice", f"model.dir={folder}", f"artifacts={artifacts}"]
    words += [f"precision={precision}", "verify.trials=3", "verify.max_frames=40", "torchscript.target=portable"]
    (config,) = load(words, workdir=artifacts)
    steps = build(GraphInputs(config, Machine(), {}), STAGES)
    return {step.stage: step for step in steps if "llm.llm" in step.name}


def perform(step: Step, action: Any) -> dict[str, Any]:
    for path in step.outputs.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    return action.run(Job(step.task, step.action, dict(step.inputs), dict(step.outputs), dict(step.params)))


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def planned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Step]:
    planned = steps(tmp_path_factory.mktemp("llm"), request.param)
    perform(planned["export_jit"], export_torchscript)
    return planned


def test_every_piece_its_caches_and_the_whole_are_in_the_report(planned: dict[str, Step]) -> None:
    perform(planned["verify_jit"], compare)
    report = json.loads(planned["verify_jit"].outputs["report"].read_text())
    for trial in report["trials"]:
        size = trial["sizes"]["positions"]
        names = [name for name in trial["outputs"] if name.startswith("forward_chunk[")]
        pieces = sorted({tuple(map(int, name.split("[")[1].split("]")[0].split(":"))) for name in names})
        assert len(pieces) >= min(3, size)
        assert [start for start, _ in pieces] == [0, *(end for _, end in pieces[:-1])]
        assert pieces[-1][1] == size
        assert {name.split(".")[1] for name in names} == {"ys", "att_cache", "cnn_cache"}
        assert "forward_chunk" in trial["outputs"]


CHUNK_SIZE = "selfattention_layer_type: 'rel_selfattn'\n        static_chunk_size: "  # of the llm in llm


@pytest.mark.parametrize("chunk_size", [0, 4])
def test_a_model_whose_forward_looks_ahead_is_compared_with_one_single_chunk(tmp_path: Path, chunk_size: int) -> None:
    changes = {f"{CHUNK_SIZE}1": f"{CHUNK_SIZE}{chunk_size}"}
    folder = random_folder("cosyvoice1", tmp_path / "model", changes, parts=["llm"])
    planned = steps(tmp_path / "artifacts", "fp32", folder)
    perform(planned["export_jit"], export_torchscript)
    perform(planned["verify_jit"], compare)
    report = json.loads(planned["verify_jit"].outputs["report"].read_text())
    assert all("forward_chunk" in trial["outputs"] for trial in report["trials"])


def in_cache(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def changed(arguments: dict[str, Any]) -> dict[str, Any]:
        cache = arguments["att_cache"]
        return arguments | ({"att_cache": change(cache)} if cache.numel() else {})

    return changed


CORRUPTIONS: dict[str, Change] = {
    "forgets": in_cache(torch.zeros_like),
    "mixes up keys and values": in_cache(lambda cache: cache.roll(cache.size(3) // 2, dims=3)),
    "mixes up layers": in_cache(lambda cache: cache.flip(0)),
    "mixes up positions": in_cache(lambda cache: cache.roll(1, dims=2) if cache.size(2) > 1 else cache * 2),
    "loses the first position": in_cache(lambda cache: cache[:, :, 1:]),
    "is not grown": lambda arguments: arguments | {"required_cache_size": 1},
    "sees what is to come": lambda arguments: arguments | {"att_mask": torch.ones_like(arguments["att_mask"])},
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_file_whose_cache_is_wrong_fails(
    planned: dict[str, Step], corruption: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TorchScriptModule.call

    def call(self: TorchScriptModule, method: str, arguments: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        return original(self, method, CORRUPTIONS[corruption](arguments) if method == "forward_chunk" else arguments)

    monkeypatch.setattr(TorchScriptModule, "call", call)
    with pytest.raises(UserError, match=r"forward_chunk\["):
        perform(planned["verify_jit"], compare)
