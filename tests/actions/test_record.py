"""What is recorded is what the model gives its own estimator on the way from noise to mel."""

import json
import math

import pytest
import torch

from tasks.actions.record import run
from tasks.models.cosyvoice.folder import load_part
from tasks.models.loading.checkpoint_file import open_checkpoint
from tests.support.errors import error_of
from tests.support.folders import changed_weights, config_of, mel_bands, random_folder, weights_of
from tests.support.made_once import made_once
from tests.support.steps import ESTIMATOR, FAMILIES, job_of, steps_of


def recording(family, folder, **inputs):
    return job_of(steps_of(family, ESTIMATOR)["record"], inputs=inputs, outputs={"recorded": folder / "recorded.pt"})


@pytest.fixture(params=FAMILIES)
def recorded(request, tmp_path_factory):
    """A family, what was recorded of it, and the facts."""
    family = request.param

    def make(root):
        (root / "facts.json").write_text(json.dumps(run(recording(family, root))))

    root = made_once(tmp_path_factory, f"recorded-{family}", make)
    tensors = open_checkpoint(recording(family, root).outputs["recorded"])
    return family, tensors, json.loads((root / "facts.json").read_text())


def test_the_receipt_lists_the_calls_and_their_shapes(recorded):
    _, tensors, facts = recorded
    assert list(facts["calls"]) == [
        f"{utterance}.step{step}" for utterance in ("without_prompt", "with_prompt") for step in (0, 5, 9)
    ]
    shapes = {f"{call}/{name}": shape for call, inputs in facts["calls"].items() for name, shape in inputs.items()}
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == shapes


def test_times_are_those_of_the_cosine_schedule(recorded):
    _, tensors, _ = recorded
    for step in (0, 5, 9):
        expected = 1 - math.cos(step / 10 * math.pi / 2)
        assert tensors[f"with_prompt.step{step}/t"].tolist() == pytest.approx([expected] * 2, abs=1e-6)


def test_the_second_of_the_batch_is_the_one_without_guidance(recorded):
    _, tensors, _ = recorded
    for name in ("mu", "spks"):
        guided, free = tensors[f"with_prompt.step5/{name}"]
        assert guided.abs().max() > 0.1
        assert not free.any()
    x, copy = tensors["with_prompt.step5/x"]
    assert torch.equal(x, copy)


def test_the_last_step_leads_to_the_mel_that_is_the_prompt_of_the_second_utterance(recorded):
    family, tensors, _ = recorded
    flow = load_part("flow", config=config_of(family), weights=weights_of(family))
    inputs = {name: tensors[f"without_prompt.step9/{name}"] for name in ("x", "mask", "mu", "t", "spks", "cond")}
    with torch.inference_mode():
        guided, free = flow.decoder.estimator(**inputs)
    rate = flow.decoder.inference_cfg_rate
    mel = inputs["x"][0] + (1 - inputs["t"][0]) * ((1 + rate) * guided - rate * free)
    prompt = tensors["with_prompt.step0/cond"][0][:, : mel.size(1)]
    assert (mel - prompt).abs().max() <= 1e-4  # fp32, values up to 6; one step of the solver done again


def test_the_same_model_gives_the_same_bytes(tmp_path):
    jobs = [recording("cosyvoice1", tmp_path / name) for name in "ab"]
    for job in jobs:
        job.outputs["recorded"].parent.mkdir()
        torch.rand(1)  # the global generator stands elsewhere
        run(job)
    one, other = (job.outputs["recorded"].read_bytes() for job in jobs)
    assert one == other


def test_a_model_whose_own_estimator_gets_nan_is_reported_and_nothing_is_written(tmp_path):
    weights = changed_weights("cosyvoice2", tmp_path, lambda state: state["encoder_proj.weight"].fill_(3e38))
    job = recording("cosyvoice2", tmp_path, weights=weights)
    error = error_of(run, job)
    assert (error.where, error.value) == (str(weights), "without_prompt.step0/mu")
    assert not job.outputs["recorded"].exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_other_mel_bands_is_recorded(family, tmp_path):
    changes = mel_bands(family, 100) | {"spk_embed_dim: 192": "spk_embed_dim: 256"}
    folder = random_folder(family, tmp_path / "model", changes, parts=["flow"])
    job = recording(family, tmp_path, config=next(folder.glob("*.yaml")), weights=folder / "flow.pt")
    shapes = run(job)["calls"]["with_prompt.step5"]
    assert {shapes[name][1] for name in ("x", "mu", "spks", "cond")} == {100}
