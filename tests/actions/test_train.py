"""The demo's training: it learns, repeats itself exactly, and writes what averaging and exporting read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import tasks.models.demo
from tasks.actions import average, train
from tasks.checkpoints import select, survey
from tasks.job import Job
from tasks.models.cosyvoice.folder import load_part
from tasks.models.demo import data
from tasks.models.loading.checkpoint_file import open_checkpoint
from tasks.plain_data import plain
from tasks.settings.schema import Train
from tasks.training.trainer import seed_draws, warmup
from tests.support.errors import error_of
from tests.support.made_once import made_once

CONFIG = Path(tasks.models.demo.__file__).parent / "cosyvoice2.yaml"
QUICK = {"steps_per_epoch": 10, "warmup_steps": 10, "lr": 3e-3, "batch_size": 4, "validation_batches": 2}
SHORT = {"max_epoch": 2, "steps_per_epoch": 3, "batch_size": 2, "validation_batches": 1}


def job(folder: Path, config: Path = CONFIG, **settings: Any) -> Job:
    folder.mkdir(exist_ok=True)
    listed = plain(Train()) | settings
    names = [f"epoch_{epoch}_whole.{ending}" for epoch in range(listed["max_epoch"]) for ending in ("pt", "yaml")]
    return Job(
        step="train:demo/flow",
        action="tasks.actions.train:run",
        inputs={"config": config},
        outputs={name: folder / name for name in names},
        params={
            "train": listed,
            "part": "flow",
            "loader": "tasks.models.cosyvoice.folder:build_part",
            "data": "tasks.models.demo.data:batches",
        },
    )


@pytest.fixture
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A training of a quarter of the default steps, on half the data: folder and facts."""

    def make(root: Path) -> None:
        facts = train.run(job(root / "checkpoints", **QUICK))
        (root / "facts.json").write_text(json.dumps(facts))

    root = made_once(tmp_path_factory, "trained", make)
    return root / "checkpoints", json.loads((root / "facts.json").read_text())


def test_validation_loss_falls_clearly(trained: tuple[Path, dict[str, Any]]) -> None:
    losses = trained[1]["validation_losses"]
    assert len(losses) == 6
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_validation_loss_falls_clearly_with_the_default_settings(tmp_path: Path) -> None:
    losses = train.run(job(tmp_path / "trained"))["validation_losses"]
    assert len(losses) == Train().max_epoch
    assert losses[-1] < 0.65 * losses[0]


def test_sidecars_tell_the_losses_and_can_be_chosen_from(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, facts = trained
    assert [checkpoint.loss for checkpoint in survey(folder)] == facts["validation_losses"]
    assert select(survey(folder), num=5, val_best=True)[0].epoch == 5


def test_sidecar_has_the_original_keys_and_no_tag_or_time(trained: tuple[Path, dict[str, Any]]) -> None:
    text = (trained[0] / "epoch_3_whole.yaml").read_text()
    listed = yaml.safe_load(text)
    assert "!!" not in text
    assert listed.keys() >= {"epoch", "step", "tag", "batch_idx", "lr", "grad_norm", "loss_dict", "max_epoch"}
    assert (listed["epoch"], listed["step"], listed["tag"]) == (3, 4 * QUICK["steps_per_epoch"], "CV")
    assert "save_time" not in listed


def test_checkpoint_has_the_original_entries(trained: tuple[Path, dict[str, Any]]) -> None:
    saved = torch.load(trained[0] / "epoch_5_whole.pt", weights_only=True)
    assert (saved.pop("epoch"), saved.pop("step")) == (5, 6 * QUICK["steps_per_epoch"])
    assert {name.split(".")[0] for name in saved} == {
        *("input_embedding", "spk_embed_affine_layer", "encoder", "encoder_proj", "decoder"),
    }
    assert all(isinstance(value, torch.Tensor) and value.isfinite().all() for value in saved.values())


def test_average_of_the_training_loads_as_an_original_flow(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, _ = trained
    files = {path.name: path for path in folder.iterdir()}
    params = {"average": {"num": 5, "val_best": True}}
    average.run(Job("average:demo/flow", "", files, {"averaged": tmp_path / "flow.pt"}, params))
    flow = load_part("flow", config=CONFIG, weights=tmp_path / "flow.pt")
    batch = next(data.batches(count=1, batch_size=8, seed=1))
    seed_draws("test")
    with torch.inference_mode():
        assert 0 < flow(batch, "cpu")["loss"] < 4


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_same_seed_gives_the_same_bytes_whatever_was_drawn_before(tmp_path: Path) -> None:
    for name in ("a", "b"):
        torch.rand(len(name) + ord(name))
        train.run(job(tmp_path / name, **SHORT))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_number_of_threads_makes_no_difference(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        train.run(job(tmp_path / str(threads), **SHORT))
    torch.set_num_threads(before)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    for seed in (0, 1):
        train.run(job(tmp_path / str(seed), seed=seed, **SHORT))
    weights = [open_checkpoint(tmp_path / str(seed) / "epoch_0_whole.pt") for seed in (0, 1)]
    assert not torch.equal(*(one["encoder_proj.weight"] for one in weights))


def test_a_longer_training_begins_as_the_shorter_one(tmp_path: Path) -> None:
    train.run(job(tmp_path / "short", **SHORT))
    train.run(job(tmp_path / "long", **SHORT | {"max_epoch": 3}))
    short, long = (open_checkpoint(tmp_path / name / "epoch_1_whole.pt") for name in ("short", "long"))
    assert all(torch.equal(tensor, long[name]) for name, tensor in short.items())


def test_validation_utterances_are_not_trained_on() -> None:
    seeds = {seed_draws(0, "validate"), *(seed_draws(0, "train", epoch) for epoch in range(6))}
    first = [next(data.batches(count=1, batch_size=1, seed=seed))["speech_feat"] for seed in seeds]
    assert len({float(mel.sum()) for mel in first}) == 7


def test_infinite_gradients_leave_the_weights_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "NOISE", float("inf"))
    facts = train.run(job(tmp_path, **SHORT))
    assert all(tensor.isfinite().all() for tensor in open_checkpoint(tmp_path / "epoch_1_whole.pt").values())
    assert not any(loss < float("inf") for loss in facts["validation_losses"])
    assert [checkpoint.step for checkpoint in survey(tmp_path)] == [0, 0]


def test_learning_rate_warms_up_and_then_falls_as_in_the_original() -> None:
    factor = warmup(20)
    assert [factor(step) for step in (0, 9, 19, 79)] == pytest.approx([1 / 20, 0.5, 1.0, 0.5])


def test_utterances_have_two_frames_for_each_token_and_zeros_beyond() -> None:
    batch = next(data.batches(count=1, batch_size=4, seed=0))
    tokens, frames = batch["speech_token_len"], batch["speech_feat_len"]
    assert torch.equal(frames, 2 * tokens)
    assert batch["speech_feat"].shape == (4, 2 * int(tokens.max()), data.MEL)
    assert not batch["speech_feat"][int(tokens.argmin()), int(frames.min()) :].any()


def test_a_model_without_the_part_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "cosyvoice2.yaml"
    config.write_text("sample_rate: 24000\n")
    error = error_of(train.run, job(tmp_path / "out", config))
    assert error.where == str(config)
    assert "'flow'" in str(error)
