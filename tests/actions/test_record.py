"""What is recorded is what the model gives its own estimator on the way from noise to mel."""

import math

import pytest
import torch

from tasks.actions.record import run
from tasks.errors import UserError
from tasks.job import Job
from tasks.models.cosyvoice.folder import load_part
from tasks.models.loading.checkpoint_file import open_checkpoint
from tasks.plain_data import plain
from tasks.settings.compose import load
from tests.support.folders import changed_weights, config_of, weights_of
from tests.support.golden_cases import GOLDEN

FAMILIES = {"cosyvoice1": "cosyvoice", "cosyvoice2": "cosyvoice2", "cosyvoice3": "cosyvoice3"}


def job_of(family, folder, *, weights=None):
    words = [f"model={FAMILIES[family]}", f"model.dir={GOLDEN / family}"]
    (config,) = load(words, workdir=folder)
    declared = config.model.components["flow_decoder_estimator"]
    return Job(
        step="record:flow.decoder.estimator",
        action="tasks.actions.record:run",
        inputs={"config": config_of(family), "weights": weights or weights_of(family, "flow")},
        outputs={"recorded": folder / "recorded.pt"},
        params={
            "component": {"name": declared.name, "part": declared.part, "inputs": plain(declared.inputs)},
            "recorder": declared.recorder,
        },
    )


@pytest.fixture(scope="module", params=FAMILIES)
def recorded(request, tmp_path_factory):
    """The family, its flow and what was recorded of it."""
    job = job_of(request.param, tmp_path_factory.mktemp(request.param))
    facts = run(job)
    flow = load_part("flow", config=job.inputs["config"], weights=job.inputs["weights"])
    return request.param, flow, open_checkpoint(job.outputs["recorded"]), facts


def test_the_receipt_lists_the_calls_and_their_shapes(recorded):
    _, _, tensors, facts = recorded
    assert list(facts["calls"]) == [
        f"{utterance}.step{step}" for utterance in ("without_prompt", "with_prompt") for step in (0, 5, 9)
    ]
    shapes = {f"{call}/{name}": shape for call, inputs in facts["calls"].items() for name, shape in inputs.items()}
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == shapes


def test_times_are_those_of_the_cosine_schedule(recorded):
    _, _, tensors, _ = recorded
    for step in (0, 5, 9):
        expected = 1 - math.cos(step / 10 * math.pi / 2)
        assert tensors[f"with_prompt.step{step}/t"].tolist() == pytest.approx([expected] * 2, abs=1e-6)


def test_the_second_of_the_batch_is_the_one_without_guidance(recorded):
    _, _, tensors, _ = recorded
    for name in ("mu", "spks"):
        guided, free = tensors[f"with_prompt.step5/{name}"]
        assert guided.abs().max() > 0.1
        assert not free.any()
    x, copy = tensors["with_prompt.step5/x"]
    assert torch.equal(x, copy)


def test_the_last_step_leads_to_the_mel_that_is_the_prompt_of_the_second_utterance(recorded):
    _, flow, tensors, _ = recorded
    inputs = {name: tensors[f"without_prompt.step9/{name}"] for name in ("x", "mask", "mu", "t", "spks", "cond")}
    with torch.inference_mode():
        guided, free = flow.decoder.estimator(**inputs)
    rate = flow.decoder.inference_cfg_rate
    mel = inputs["x"][0] + (1 - inputs["t"][0]) * ((1 + rate) * guided - rate * free)
    prompt = tensors["with_prompt.step0/cond"][0][:, : mel.size(1)]
    assert (mel - prompt).abs().max() <= 1e-4  # fp32, values up to 6; one step of the solver done again


def test_the_same_model_gives_the_same_bytes(tmp_path):
    jobs = [job_of("cosyvoice1", tmp_path / name) for name in "ab"]
    for job in jobs:
        job.outputs["recorded"].parent.mkdir()
        torch.rand(1)  # the global generator stands elsewhere
        run(job)
    one, other = (job.outputs["recorded"].read_bytes() for job in jobs)
    assert one == other


def test_a_model_whose_own_estimator_gets_nan_is_reported_and_nothing_is_written(tmp_path):
    weights = changed_weights("cosyvoice2", tmp_path, lambda state: state["encoder_proj.weight"].fill_(3e38))
    job = job_of("cosyvoice2", tmp_path, weights=weights)
    with pytest.raises(UserError, match=r"inputs of \S+ are NaN or Inf.*without_prompt\.step0/mu"):
        run(job)
    assert not job.outputs["recorded"].exists()
