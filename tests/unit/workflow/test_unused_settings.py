"""Settings that change nothing are refused; those that change any step, wherever it can run, are not."""

from pathlib import Path

import pytest

from tasks.pipeline.graph import build
from tasks.pipeline.graph_inputs import GraphInputs, Machine
from tasks.pipeline.stages.table import STAGES
from tasks.settings.compose import load
from tasks.workflow.unused_settings import unused_settings

COSYVOICE2 = ("model=cosyvoice2", "model.dir=/m")


def unused(*words: str) -> list[str]:
    configs = load(words, workdir=Path("/w"))
    given = any(word.startswith("model.checkpoints.flow=") for word in words)
    found = {"flow": [Path("/c/epoch_1_whole.pt")]} if given else {}
    graphs = [GraphInputs(one, Machine(), found) for one in configs]
    return unused_settings(words, [(given, build(given, STAGES)) for given in graphs], STAGES)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((*COSYVOICE2, "train.seed=3"), "train.seed: has no effect on cosyvoice2 in fp32"),
        ((*COSYVOICE2, "onnx.keep_fp32=[Softmax]"), "onnx.keep_fp32: has no effect on cosyvoice2 in fp32"),
        (("vllm.trials=3", "model.checkpoints.flow=/c"), "vllm.trials: has no effect on demo in fp32"),
        (("model=cosyvoice", "vllm.min_snr_db=3"), "vllm.min_snr_db: has no effect on cosyvoice in fp32"),
        (
            ("tensorrt.tf32=true", "model.components.flow_decoder_estimator.formats=[onnx]"),
            "tensorrt.tf32: has no effect on demo in fp32",
        ),
    ],
)  # fmt: skip
def test_a_setting_without_an_effect_on_this_model_is_named(words: tuple[str, ...], named: str) -> None:
    assert unused(*words) == [f"{named}; leave it out"]


@pytest.mark.parametrize(
    "word",
    [
        "verify.auto=false", "verify.device=auto", "torchscript.target=auto", "onnx.exporter=auto", "onnx.opset=18",
        "tensorrt.mode=off", "tensorrt.concurrency=2", "tensorrt.timing_cache=/t", "tensorrt.profile.frames=[4,9,30]",
        "tensorrt.profiles=[{frames: [4,9,30]}]", "average.num=2", "model.name=x", "model.config=x.yaml",
        "model.axes.tokens.max=900", "model.components.flow_decoder_estimator.options.streaming=true", "artifacts=x",
        "model.components.flow_decoder_estimator.recordings=[a.pt]", "model.checkpoints.flow=/c", "vllm.trials=9",
        "model.parts.llm=x.pt", "model.components.hift.part=flow", "onnx={opset: 19}", "onnx.opset=23",
    ],
)  # fmt: skip
def test_a_setting_that_changes_a_step_is_kept_also_at_its_default(word: str) -> None:
    assert unused(*COSYVOICE2, word) == []


def test_a_number_to_which_nothing_can_be_added_has_an_effect_as_well() -> None:
    assert unused("train.lr=1e300") == []


def test_in_a_sweep_one_precision_that_uses_it_is_enough() -> None:
    assert unused(*COSYVOICE2, "precision=fp32,fp16", "onnx.keep_fp32=[Softmax]") == []
