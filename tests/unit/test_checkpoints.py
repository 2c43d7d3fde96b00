"""Which checkpoints are chosen for averaging, and what is said of those that cannot be."""

import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from torch.distributed import checkpoint as distributed_checkpoint

from tasks.checkpoints import select, survey
from tasks.errors import UserError

GOLDEN = Path(__file__).parents[1] / "golden" / "average"


def sidecar(folder: Path, name: str, *, epoch: int = 0, step: int = 0, loss: object = 1.0) -> None:
    (folder / f"{name}.yaml").write_text(f"epoch: {epoch}\nloss_dict:\n  loss: {loss}\nstep: {step}\n")
    (folder / f"{name}.pt").touch()


def names(folder: Path, *, num: int, val_best: bool = True) -> list[str]:
    return [checkpoint.name for checkpoint in select(survey(folder), num=num, val_best=val_best)]


def test_original_run_is_ranked_as_the_original_script_ranks_it() -> None:
    expected = json.loads((GOLDEN / "README.json").read_text())
    chosen = select(survey(GOLDEN), num=expected["num"], val_best=True)
    assert [checkpoint.epoch for checkpoint in chosen] == expected["selected_epochs_best_first"]


def test_every_loss_of_the_original_run_is_read() -> None:
    expected = json.loads((GOLDEN / "README.json").read_text())
    assert [checkpoint.loss for checkpoint in survey(GOLDEN)] == expected["losses"]


def test_sidecars_called_train_or_init_do_not_count(tmp_path: Path) -> None:
    for name in ("train", "init", "train_2", "epoch_0_whole"):
        sidecar(tmp_path, name, loss=-100)
    assert [checkpoint.name for checkpoint in survey(tmp_path)] == ["epoch_0_whole"]


def test_newest_are_chosen_by_epoch_then_step_as_numbers(tmp_path: Path) -> None:
    for epoch, step in ((2, 30), (10, 110), (10, 95), (9, 100)):
        sidecar(tmp_path, f"epoch_{epoch}_step_{step}", epoch=epoch, step=step)
    assert names(tmp_path, num=3, val_best=False) == ["epoch_10_step_110", "epoch_10_step_95", "epoch_9_step_100"]


def test_a_checkpoint_from_within_an_epoch_stands_for_its_own_file(tmp_path: Path) -> None:
    sidecar(tmp_path, "epoch_1_whole", epoch=1, step=20, loss=2.0)
    sidecar(tmp_path, "epoch_1_step_15", epoch=1, step=15, loss=1.0)
    chosen = select(survey(tmp_path), num=2, val_best=True)
    assert [checkpoint.weights.name for checkpoint in chosen] == ["epoch_1_step_15.pt", "epoch_1_whole.pt"]


def test_equal_losses_go_by_epoch_then_step_then_name(tmp_path: Path) -> None:
    for name, epoch, step in (("d", 1, 1), ("c", 0, 2), ("b", 0, 1), ("a", 0, 1)):
        sidecar(tmp_path, name, epoch=epoch, step=step)
    assert names(tmp_path, num=4) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("spelling", ["nan", ".nan", ".NaN", "inf", "-.inf", "1e999", "low", "[1]"])
@pytest.mark.parametrize("val_best", [True, False])
def test_a_checkpoint_without_a_finite_loss_is_never_chosen(tmp_path: Path, spelling: str, val_best: bool) -> None:
    sidecar(tmp_path, "epoch_1_whole", epoch=1, loss=spelling)
    sidecar(tmp_path, "epoch_0_whole", epoch=0)
    assert names(tmp_path, num=1, val_best=val_best) == ["epoch_0_whole"]
    assert [checkpoint.name for checkpoint in survey(tmp_path) if checkpoint.diverged] == ["epoch_1_whole"]


def test_a_sidecar_without_a_loss_counts_only_for_the_newest(tmp_path: Path) -> None:
    (tmp_path / "last.yaml").write_text("epoch: 3\nstep: 9\n")
    (tmp_path / "last.pt").touch()
    assert names(tmp_path, num=1, val_best=False) == ["last"]
    with pytest.raises(UserError, match="1 asked for, 0 found and 1 more without a finite validation loss"):
        names(tmp_path, num=1)


def test_weights_without_a_sidecar_are_left_out(tmp_path: Path) -> None:
    sidecar(tmp_path, "epoch_0_whole")
    (tmp_path / "epoch_1_whole.pt").touch()
    assert [checkpoint.name for checkpoint in survey(tmp_path)] == ["epoch_0_whole"]


def test_other_yaml_files_in_the_folder_are_left_out(tmp_path: Path) -> None:
    sidecar(tmp_path, "epoch_0_whole")
    (tmp_path / "cosyvoice2.yaml").write_text("flow: !new:some.Class\n  width: 4\n")
    (tmp_path / "notes.yaml").write_text("- tried a lower rate\n")
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "._epoch_0_whole.yaml").write_bytes(b"\0\5\x16\7")  # macOS leaves them on network drives
    assert [checkpoint.name for checkpoint in survey(tmp_path)] == ["epoch_0_whole"]


def test_no_tag_in_a_sidecar_is_ever_obeyed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sidecar(tmp_path, "a")
    hostile = '!!python/object/apply:os.system ["echo obeyed"]'
    (tmp_path / "a.yaml").write_text(f"epoch: 0\ngrad_norm: {hostile}\nloss_dict: {{loss: 1.0}}\nstep: 0\n")
    assert survey(tmp_path)[0].loss == 1.0
    assert "obeyed" not in capfd.readouterr().out


def test_reading_sidecars_needs_no_torch() -> None:
    program = (
        "import sys; from pathlib import Path; from tasks.checkpoints import survey;"
        f"survey(Path({str(GOLDEN)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def write(text: str | bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = text if isinstance(text, bytes) else text.encode()
        (folder / "epoch_0_whole.yaml").write_bytes(content)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "epoch_0_whole.pt").unlink(), "without its weights file .got epoch_0_whole.yaml"),
        (write("epoch: [1, 2\n"), "cannot be read as YAML"),
        (write(b"epoch: 1\n# \xc3\x28"), r"yaml:2: is not UTF-8 .* Save it as UTF-8"),
        (write("[" * 100_000), "cannot be read as YAML"),
        (write(""), "is not a YAML mapping"),
        (write("- epoch\n- step\n"), "is not a YAML mapping .got list"),
        (write("step: 1\nloss_dict: {loss: 1}\n"), "has no 'epoch'"),
        (write("epoch: one\nstep: 1\n"), "'epoch' is not an integer .got one"),
        (write("epoch: 1.5\nstep: 1\n"), "'epoch' is not an integer .got 1.5"),
        (write("epoch: 1e999\nstep: 1\n"), "'epoch' is not an integer .got 1e999"),
        (write("epoch: null\nstep: 1\n"), "'epoch' is not an integer .got null"),
        (
            write("epoch: 1\nloss_dict: {loss: 1}\nstep: 1\nloss_dict: {loss: 2}\n"),
            "gives a value twice .got loss_dict in lines 2 and 4",
        ),
        (write("epoch: 1\nstep: 1\nstep: 1\n"), "gives a value twice .got step in lines 2 and 3"),
        (
            write("epoch: 1\nstep: 1\nloss_dict:\n  loss: 1\n  loss: 2\n"),
            "gives a value twice .got loss_dict.loss in lines 4 and 5",
        ),
        (write("epoch: 1\nstep: [1]\n"), "'step' is not an integer"),
        (write("epoch: 1\nstep: 1\nloss_dict: 3\n"), "'loss_dict' is not a mapping .got 3"),
        (write("epoch: " + "9" * 10**5), "'epoch' is not an integer"),
        (write("k" * 10**6), "cannot be read as YAML|is not a YAML mapping"),
    ],
)
def test_a_bad_sidecar_is_named(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    sidecar(tmp_path, "epoch_0_whole")
    spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        survey(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_too_few_checkpoints_names_the_number_found_and_the_setting(tmp_path: Path) -> None:
    sidecar(tmp_path, "epoch_0_whole")
    with pytest.raises(UserError, match=r"2 asked for, 1 found .got average.num=2.. Lower average.num to 1"):
        names(tmp_path, num=2)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}/none: no such folder"):
        survey(tmp_path / "none")


def test_a_folder_without_sidecars_is_refused(tmp_path: Path) -> None:
    (tmp_path / "epoch_0_whole.pt").touch()
    with pytest.raises(UserError, match="no checkpoint with a sidecar"):
        survey(tmp_path)


@pytest.mark.parametrize("loss", ["-inf", "1e999", "nan", "low"])
def test_a_checkpoint_that_is_never_chosen_is_named_with_its_loss(tmp_path: Path, loss: str) -> None:
    sidecar(tmp_path, "epoch_1_whole", loss=loss)
    sidecar(tmp_path, "epoch_0_whole")
    assert [one.why_left_out for one in survey(tmp_path) if one.diverged] == [f"epoch_1_whole (validation loss {loss})"]
    with pytest.raises(UserError, match=re.escape(f"finite validation loss: epoch_1_whole (validation loss {loss})")):
        names(tmp_path, num=2)


# What yaml.dump writes for torch.tensor(0.5), numpy.float32(1.5) and numpy.float64(2.5).
PICKLED = {
    0.5: """!!python/object/apply:torch._utils._rebuild_tensor_v2
  - !!python/object/apply:torch.storage._load_from_bytes
    - !!binary |
      gAKKCmz8nEb5IGqoUBkugAJN6QMugAJ9cQAoWBAAAABwcm90b2NvbF92ZXJzaW9ucQFN6QNYDQAA
      AGxpdHRsZV9lbmRpYW5xAohYCgAAAHR5cGVfc2l6ZXNxA31xBChYBQAAAHNob3J0cQVLAlgDAAAA
      aW50cQZLBFgEAAAAbG9uZ3EHSwR1dS6AAihYBwAAAHN0b3JhZ2VxAGN0b3JjaApGbG9hdFN0b3Jh
      Z2UKcQFYDgAAADkzOTAzMTMwMTg2MzQycQJYAwAAAGNwdXEDSwFOdHEEUS6AAl1xAFgOAAAAOTM5
      MDMxMzAxODYzNDJxAWEuAQAAAAAAAAAAAAA/
  - 0
  - !!python/tuple []""",
    1.5: "!!python/object/apply:numpy.core.multiarray.scalar\n  - !!python/object/apply:numpy.dtype\n"
    "    args: [f4, false, true]\n    state: !!python/tuple [3, <]\n  - !!binary |\n    AADAPw==",
    2.5: "!!python/object/apply:numpy.core.multiarray.scalar\n  - !!python/object/apply:numpy.dtype\n"
    "    args: [f8, false, true]\n    state: !!python/tuple [3, <]\n  - !!binary |\n    AAAAAAAABEA=",
}


@pytest.mark.parametrize("loss", PICKLED)
def test_a_loss_that_training_wrote_as_an_object_is_read_from_its_bytes(tmp_path: Path, loss: float) -> None:
    sidecar(tmp_path, "epoch_0_whole", loss=PICKLED[loss])
    assert survey(tmp_path)[0].loss == loss


WRITTEN = {
    "half": torch.tensor(0.5).half(),
    "bfloat16": torch.tensor(0.5).bfloat16(),
    "double": torch.tensor(0.5).double(),
    "numpy half": np.float16(0.5),
    "numpy double": np.float64(0.5),
    "plain": 0.5,
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_losses_of_every_precision_are_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.pt").touch()
    (tmp_path / "a.yaml").write_text(yaml.dump({"epoch": 0, "step": 0, "loss_dict": {"loss": WRITTEN[kind]}}))
    assert survey(tmp_path)[0].loss == 0.5


@pytest.mark.parametrize("number", [7, 7.0, np.int64(7), np.int32(7), np.float32(7), torch.tensor(7), np.uint64(7)])
def test_whole_numbers_of_every_type_are_epochs_and_steps(tmp_path: Path, number: object) -> None:
    (tmp_path / "a.pt").touch()
    (tmp_path / "a.yaml").write_text(yaml.dump({"epoch": number, "step": number, "loss_dict": {"loss": 1.0}}))
    (found,) = survey(tmp_path)
    assert (found.epoch, found.step, type(found.step)) == (7, 7, int)


@pytest.mark.parametrize("losses", ["null", "~", "", "{}", "{loss: null}"])
def test_losses_that_are_nothing_are_no_loss(tmp_path: Path, losses: str) -> None:
    (tmp_path / "a.pt").touch()
    (tmp_path / "a.yaml").write_text(f"epoch: 0\nstep: 0\nloss_dict: {losses}\n")
    assert survey(tmp_path)[0].loss is None


def test_a_model_yaml_that_repeats_a_key_is_no_sidecar(tmp_path: Path) -> None:
    sidecar(tmp_path, "epoch_0_whole")
    (tmp_path / "model.yaml").write_text("step: 1\nstep: 2\n")
    assert [one.name for one in survey(tmp_path)] == ["epoch_0_whole"]


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**11)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_fifo, "is a named pipe, not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device, not a regular file"),
        (make_sparse, "is too large"),
        (lambda path: path.symlink_to("nowhere"), "a link to a file that does not exist"),
    ],
    ids=["pipe", "device", "sparse", "dangling"],
)
def test_a_sidecar_that_is_no_file_is_refused_before_it_is_read(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    (tmp_path / "epoch_0_whole.pt").touch()
    make(tmp_path / "epoch_0_whole.yaml")
    with pytest.raises(UserError, match=f"epoch_0_whole.yaml: .*{message}"):
        survey(tmp_path)


def test_safetensors_have_sidecars_too(tmp_path: Path) -> None:
    sidecar(tmp_path, "epoch_0_whole")
    (tmp_path / "epoch_0_whole.pt").rename(tmp_path / "epoch_0_whole.safetensors")
    assert [one.weights.name for one in survey(tmp_path)] == ["epoch_0_whole.safetensors"]


@pytest.mark.parametrize("shards", [True, False])
def test_folders_of_deepspeed_are_named_with_the_command_that_converts_them(tmp_path: Path, shards: bool) -> None:
    sidecar(tmp_path, "epoch_0_whole")
    (tmp_path / "epoch_0_whole.pt").unlink()
    inside = tmp_path / "epoch_0_whole"
    inside.mkdir()
    (inside / "zero_to_fp32.py").write_text("import sys, pathlib; pathlib.Path(sys.argv[2]).touch()")
    torch.save({"module": {"w": torch.ones(2)}, "ds_version": "0.15.1"}, inside / "mp_rank_00_model_states.pt")
    if shards:
        (inside / "zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
    with pytest.raises(UserError, match="epoch_0_whole: is a folder that a training engine") as caught:
        survey(tmp_path)
    assert "zero_to_fp32.py" in caught.value.remedy
    command = shlex.split(caught.value.remedy.split(": ", 1)[1].split(" (")[0])
    subprocess.run([sys.executable, *command[1:]], check=True)
    assert names(tmp_path, num=1) == ["epoch_0_whole"]


@pytest.mark.parametrize("inside", ["", "pytorch_model_fsdp_0"], ids=["FSDP", "accelerate"])
def test_folders_of_fsdp_are_named_with_the_command_that_converts_them(tmp_path: Path, inside: str) -> None:
    sidecar(tmp_path, "epoch_0_whole")
    (tmp_path / "epoch_0_whole.pt").unlink()
    for name, state in (("optimizer_0", {"exp_avg": torch.zeros(2)}), (inside, {"model": {"w": torch.ones(2)}})):
        if inside or not name:
            dcp.save(state, checkpoint_id=tmp_path / "epoch_0_whole" / name, no_dist=True)
    with pytest.raises(UserError, match="epoch_0_whole: is a folder that a training engine") as caught:
        survey(tmp_path)
    command = shlex.split(caught.value.remedy.split(": ", 1)[1])
    subprocess.run([sys.executable, *command[1:]], check=True)
    (found,) = survey(tmp_path)
    assert torch.load(found.weights)["model"]["w"].tolist() == [1, 1]


def write_index(folder: Path, name: str) -> None:
    torch.save({"w": torch.ones(2)}, folder / "part-1.bin")
    (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": {"w": "part-1.bin"}}))


@pytest.mark.parametrize("folder", ["epoch_0_whole.pt", "epoch_0_whole"])
@pytest.mark.parametrize("unconverted", [True, False], ids=["beside what it was made from", "alone"])
@pytest.mark.parametrize("inside", ["pytorch_model.bin", "model.safetensors", "an index"])
def test_folders_with_weights_ready_to_be_read_are_named_with_the_command_that_takes_them_out(
    tmp_path: Path, folder: str, inside: str, unconverted: bool
) -> None:
    sidecar(tmp_path, "epoch_0_whole")
    (tmp_path / "epoch_0_whole.pt").unlink()
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "optimizer.bin").touch()
    if inside == "an index":
        write_index(tmp_path / folder, "pytorch_model.bin")
    else:
        (tmp_path / folder / inside).write_text("weights")
    if unconverted:
        (tmp_path / "epoch_0_whole").mkdir(exist_ok=True)
        (tmp_path / "epoch_0_whole" / "zero_to_fp32.py").touch()
    with pytest.raises(UserError, match="is a folder that a training engine") as caught:
        survey(tmp_path)
    command = caught.value.remedy.split(": ", 1)[1].replace("python -c", f"{sys.executable} -c")
    subprocess.run(command, shell=True, check=True)
    (found,) = survey(tmp_path)
    assert torch.load(found.weights)["w"].tolist() == [1, 1] if inside == "an index" else found.weights.read_text()


@pytest.mark.parametrize("ending", [".bin", ".ckpt", ".pth"])
def test_weights_with_another_ending_are_named_with_the_command_that_renames_them(tmp_path: Path, ending: str) -> None:
    sidecar(tmp_path, "epoch_0_whole")
    (tmp_path / "epoch_0_whole.pt").rename(tmp_path / f"epoch_0_whole{ending}")
    with pytest.raises(UserError, match=f"must end in .pt or .safetensors .got {ending}") as caught:
        survey(tmp_path)
    subprocess.run(caught.value.remedy.split(": ", 1)[1], shell=True, check=True)
    assert names(tmp_path, num=1) == ["epoch_0_whole"]


def test_a_folder_of_shards_is_named_with_the_command_that_joins_them(tmp_path: Path) -> None:
    sidecar(tmp_path, "epoch_0_whole")
    (tmp_path / "epoch_0_whole.pt").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no process group is there
        distributed_checkpoint.save({"model": {"w": torch.ones(2)}}, checkpoint_id=tmp_path / "epoch_0_whole")
    with pytest.raises(UserError, match="is a folder that a training engine") as caught:
        survey(tmp_path)
    subprocess.run([sys.executable, *shlex.split(caught.value.remedy.split(": ", 1)[1])[1:]], check=True)
    assert torch.load(tmp_path / "epoch_0_whole.pt", weights_only=True)["model"]["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("denied", ["lstat", "iterdir"])  # as of a folder of mode 400 and of one of mode 100
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, denied: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    sidecar(tmp_path, "epoch_0_whole")
    monkeypatch.setattr(Path, denied, deny)
    with pytest.raises(UserError, match=r"cannot be read .got Permission denied.\. Check its permissions") as caught:
        survey(tmp_path)
    assert caught.value.where == str(tmp_path)
