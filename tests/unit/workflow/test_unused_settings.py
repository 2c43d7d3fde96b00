"""Settings that change nothing are refused; those that change any step, wherever it can run, are not."""

from pathlib import Path

import pytest

from tasks.pipeline.graph_inputs import GraphInputs, Machine
from tasks.pipeline.stages.table import STAGES
from tasks.settings.compose import load
from tasks.workflow.unused_settings import unused_settings

NOTHING_HERE = Machine(
    build_obstacle=("no NVIDIA GPU on this machine", "Use another"),
    runtime_obstacle=("no NVIDIA GPU on this machine", "Use another"),
    transformers=False,
)
COSYVOICE2 = ("model=cosyvoice2", "model.dir=/m")

ESTIMATOR = "cosyvoice2/flow.decoder.estimator.fp32"


def unused(*words: str, machine: Machine = NOTHING_HERE, absent: tuple[str, ...] = ()) -> list[str]:
    configs = load(words, workdir=Path("/w"))
    given = any(word.startswith("model.checkpoints.flow=") for word in words)
    found = {"flow": [Path("/c/epoch_1_whole.pt")]} if given else {}
    return unused_settings(words, [GraphInputs(one, machine, found, absent) for one in configs], STAGES)


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
        "tensorrt.profiles=[{frames: [4,9,30]}]", "model.name=x", "model.config=x.yaml",
        "model.axes.tokens.max=900", "model.components.flow_decoder_estimator.options.streaming=true", "artifacts=x",
        "model.components.flow_decoder_estimator.recordings=[a.pt]", "model.checkpoints.flow=/c", "vllm.trials=9",
        "model.parts.llm=x.pt", "model.components.hift.part=flow", "onnx={opset: 19}",
    ],
)  # fmt: skip
def test_a_setting_that_changes_a_step_is_kept_also_at_its_default(word: str) -> None:
    assert unused(*COSYVOICE2, word) == []


@pytest.mark.parametrize(
    ("words", "absent", "reason"),
    [
        (
            ("average.num=3",),
            (),
            "average:cosyvoice2/flow is skipped: no checkpoints given for flow.pt; that of the model folder is used. "
            "Give a folder of checkpoints: model.checkpoints.flow=DIR",
        ),
        (("vllm.trials=7",), ("llm",), "verify_vllm:cosyvoice2/llm is skipped: the model folder has no llm.pt"),
        (
            ("vllm.trials=7",),
            ("CosyVoice-BlankEN/config.json",),
            "verify_vllm:cosyvoice2/llm is skipped: the model folder has no CosyVoice-BlankEN/config.json",
        ),
        (("tensorrt.mode=off", "tensorrt.tf32=true"), (), f"export_plan:{ESTIMATOR} is skipped: tensorrt.mode=off"),
        (("onnx.opset=18",), ("flow", "hift"), "export_onnx:cosyvoice2/flow.encoder.fp32 is skipped: the model folder"),
        (("tensorrt.tf32=true",), ("flow",), f"export_plan:{ESTIMATOR} is skipped: the model folder has no flow.pt"),
    ],
)  # fmt: skip
def test_a_setting_for_steps_that_are_skipped_on_any_machine_is_named_with_the_reason(
    words: tuple[str, ...], absent: tuple[str, ...], reason: str
) -> None:
    (line,) = unused(*COSYVOICE2, *words, absent=absent)
    assert line.startswith(f"{words[-1].partition('=')[0]}: has no effect, because {reason}")


@pytest.mark.parametrize("words", [("average.num=3", "model.checkpoints.flow=/c"), ("average.num=3", "vllm.trials=7")])
def test_one_step_that_is_not_skipped_is_enough(words: tuple[str, ...]) -> None:
    models = ("model=demo,cosyvoice2", "model.dir=/m") if "vllm.trials=7" in words else COSYVOICE2
    assert unused(*models, *words) == []


def test_a_number_to_which_nothing_can_be_added_has_an_effect_as_well() -> None:
    assert unused("train.lr=1e300") == []


def test_in_a_sweep_one_precision_that_uses_it_is_enough() -> None:
    assert unused(*COSYVOICE2, "precision=fp32,fp16", "onnx.keep_fp32=[Softmax]") == []
