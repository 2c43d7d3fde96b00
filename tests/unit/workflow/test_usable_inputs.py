"""What is looked at in the user's folders before anything runs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ConfigError
from tasks.pipeline.step import Step
from tasks.settings.compose import load
from tasks.settings.schema import Config
from tasks.workflow.input_files import absent, check_inputs, check_made, checkpoints_to_average, with_found_parts


def config(folder: Path, *words: str) -> Config:
    (one,) = load(["model=cosyvoice2", f"model.dir={folder}", *words], workdir=folder)
    return one


def step(weights: Path) -> Step:
    return Step("export_jit", "m/flow", "a:run", {"weights": weights}, {"zip": weights.with_suffix(".zip")}, {})


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**11)


def engine(path: Path) -> None:
    path.mkdir()
    (path / "mp_rank_00_model_states.pt").touch()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "flow.pt: is a named pipe"),
        (Path.mkdir, "flow.pt: is a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "flow.pt: is a device"),
        (lambda path: path.symlink_to("nowhere"), "a link to a file that does not exist"),
        (sparse, "flow.pt: is not a whole PyTorch checkpoint"),
        (engine, "flow.pt: is a folder that a training engine .DeepSpeed, FSDP, accelerate. has written.* python -c"),
    ],
    ids=["pipe", "folder", "device", "dangling", "sparse", "engine"],
)
def test_an_input_that_is_no_file_is_refused_before_it_is_hashed(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "flow.pt")
    with pytest.raises(ConfigError, match=message) as caught:
        check_inputs([step(tmp_path / "flow.pt")] * 3)
    assert len(caught.value.problems) == 1


def deny(monkeypatch: pytest.MonkeyPatch, name: str, path: Path) -> None:
    """Let one of the methods of `Path` fail on a path."""
    allowed = getattr(Path, name)

    def denied(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied", str(path))
        return allowed(self, *arguments, **options)

    monkeypatch.setattr(Path, name, denied)


@pytest.mark.parametrize("denied", ["open", "stat"])
def test_an_input_that_may_not_be_read_is_refused_before_anything_runs(
    tmp_path: Path, denied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "flow.pt"
    path.touch()
    deny(monkeypatch, denied, path)
    with pytest.raises(ConfigError) as caught:
        check_inputs([step(path)] * 2)
    assert caught.value.problems == [f"{path}: cannot be read (got Permission denied). Check its permissions"]


@pytest.mark.parametrize("denied", ["open", "stat"])
def test_so_is_an_artifact_and_one_line_names_the_folder_of_those_that_cannot_be_reached(
    tmp_path: Path, denied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = step(tmp_path / "flow.pt")
    check_made([one])
    path = one.outputs["zip"]
    path.touch()
    check_made([one])
    deny(monkeypatch, denied, path)
    with pytest.raises(ConfigError) as caught:
        check_made([one])
    where = path if denied == "open" else tmp_path
    assert caught.value.problems == [f"{where}: cannot be read (got Permission denied). Check its permissions"]


def test_a_part_that_is_no_file_does_not_count_as_absent(tmp_path: Path) -> None:
    (tmp_path / "cosyvoice2.yaml").touch()
    (tmp_path / "hift.pt").touch()
    os.mkfifo(tmp_path / "flow.pt")
    assert "flow" not in absent(config(tmp_path))
    assert "llm" in absent(config(tmp_path))


def test_safetensors_take_the_place_of_a_file_that_the_folder_does_not_have(tmp_path: Path) -> None:
    for name in ("flow.safetensors", "hift.safetensors", "hift.pt"):
        (tmp_path / name).touch()
    parts = with_found_parts(config(tmp_path)).model.parts
    assert parts == {"llm": "llm.pt", "flow": "flow.safetensors", "hift": "hift.pt"}


def test_checkpoints_that_are_never_chosen_are_named_with_their_loss(tmp_path: Path) -> None:
    for epoch, loss in enumerate((1.0, 0.5, float("-inf"))):
        (tmp_path / f"e{epoch}.pt").touch()
        (tmp_path / f"e{epoch}.yaml").write_text(f"epoch: {epoch}\nstep: 1\nloss_dict: {{loss: {loss}}}\n")
    found, left_out = checkpoints_to_average(config(tmp_path, f"model.checkpoints.flow={tmp_path}", "average.num=2"))
    assert [path.name for path in found["flow"]] == ["e1.pt", "e1.yaml", "e0.pt", "e0.yaml"]
    assert left_out == {"flow": ["e2 (validation loss -inf)"]}
