"""Averaging: parity with the original script, what is averaged and what is kept, and what is refused."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tasks.actions import average
from tasks.job import Job, sha256
from tasks.models.loading.checkpoint_file import open_checkpoint
from tests.support.errors import error_of

GOLDEN = Path(__file__).parents[1] / "golden" / "average"


def job(folder: Path, *, num: int = 2, val_best: bool = True, out: Path | None = None) -> Job:
    candidates = {
        path.name: path for path in sorted(folder.iterdir()) if path.suffix in {".pt", ".safetensors", ".yaml"}
    }
    outputs = {"averaged": (out or folder / "out") / "flow.pt"}
    outputs["averaged"].parent.mkdir(exist_ok=True)
    return Job("average:test/flow", "", candidates, outputs, {"average": {"num": num, "val_best": val_best}})


def save(folder: Path, name: str, tensors: dict[str, Any], *, loss: float = 1.0) -> None:
    torch.save(tensors | {"epoch": 0, "step": 0}, folder / f"{name}.pt")
    (folder / f"{name}.yaml").write_text(f"epoch: 0\nstep: 0\nloss_dict: {{loss: {loss}}}\n")


def averaged(folder: Path, *members: dict[str, Any]) -> dict[str, Tensor]:
    """Average `members`, the first with the lowest loss."""
    for index, tensors in enumerate(members):
        save(folder, f"m{index}", tensors, loss=index)
    return open_checkpoint(run(folder, num=len(members))[1])


def run(folder: Path, *, num: int = 2, val_best: bool = True) -> tuple[dict[str, Any], Path]:
    message = job(folder, num=num, val_best=val_best)
    return average.run(message), message.outputs["averaged"]


@pytest.fixture
def original(tmp_path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Facts and tensors of averaging the original run."""
    message = job(GOLDEN, num=5, out=tmp_path)
    return average.run(message), open_checkpoint(message.outputs["averaged"])


def test_floating_point_tensors_are_bit_for_bit_those_of_the_original_script(
    original: tuple[dict[str, Any], dict[str, Tensor]],
) -> None:
    expected = open_checkpoint(GOLDEN / "expected.pt")
    best = open_checkpoint(GOLDEN / "epoch_4_whole.pt")
    floats = [name for name in expected if best[name].is_floating_point()]
    assert len(floats) == 10
    assert all(torch.equal(original[1][name], expected[name]) for name in floats)
    assert list(original[1]) == list(expected)


def test_integer_buffers_are_the_best_members_and_are_named(
    original: tuple[dict[str, Any], dict[str, Tensor]],
) -> None:
    facts, tensors = original
    best = open_checkpoint(GOLDEN / "epoch_4_whole.pt")
    assert facts["kept_from_best"] == ["positions", "enc.1.num_batches_tracked"]
    for name in facts["kept_from_best"]:
        assert torch.equal(tensors[name], best[name])
        assert tensors[name].dtype == torch.int64


def test_facts_list_which_files_went_in_with_which_losses(original: tuple[dict[str, Any], dict[str, Tensor]]) -> None:
    expected = json.loads((GOLDEN / "README.json").read_text())
    listed = original[0]["best_first"]
    assert [one["file"] for one in listed] == [f"epoch_{e}_whole.pt" for e in expected["selected_epochs_best_first"]]
    assert [one["loss"] for one in listed] == sorted(expected["losses"])[:5]
    assert json.loads(json.dumps(original[0])) == original[0]


def test_diverged_checkpoints_are_named_in_the_facts(tmp_path: Path) -> None:
    save(tmp_path, "a", {"w": torch.ones(2)})
    save(tmp_path, "b", {"w": torch.full((2,), torch.nan)}, loss=float("nan"))
    facts, _ = run(tmp_path, num=1)
    assert facts["left_out"] == ["b (validation loss nan)"]


def test_what_is_left_out_of_the_folder_is_reported_and_changes_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = replace(job(GOLDEN, num=2, out=tmp_path), local={"left_out": ["epoch_9_whole (validation loss -inf)"]})
    assert average.run(message)["left_out"] == ["epoch_9_whole (validation loss -inf)"]
    assert "left out: epoch_9_whole (validation loss -inf)" in capsys.readouterr().err


def test_members_are_unwrapped_alike_and_reported(tmp_path: Path) -> None:
    result = averaged(tmp_path, {"module.w": torch.ones(2)}, {"model": {"w": torch.full((2,), 3.0)}, "optimizer": None})
    assert result["w"].tolist() == [2.0, 2.0]
    facts, _ = run(tmp_path)
    assert facts["unwrapped"] == {
        "m0.pt": ["names without 'module.'"],
        "m1.pt": ["left out: optimizer", "read from 'model'"],
    }


def test_safetensors_are_averaged(tmp_path: Path) -> None:
    for index in (0, 1):
        save(tmp_path, f"m{index}", {"w": torch.full((2,), 2.0 * index)}, loss=index)
        (tmp_path / f"m{index}.pt").unlink()
        save_file({"w": torch.full((2,), 2.0 * index)}, tmp_path / f"m{index}.safetensors")
    facts, out = run(tmp_path)
    assert open_checkpoint(out)["w"].tolist() == [1.0, 1.0]
    assert [one["file"] for one in facts["best_first"]] == ["m0.safetensors", "m1.safetensors"]


def test_newest_are_averaged_without_val_best(tmp_path: Path) -> None:
    message = job(GOLDEN, num=2, val_best=False, out=tmp_path)
    assert [one["epoch"] for one in average.run(message)["best_first"]] == [6, 5]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float64, torch.complex64])
def test_each_tensor_keeps_its_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    result = averaged(tmp_path, {"w": torch.ones(3).to(dtype)}, {"w": torch.full((3,), 2.0).to(dtype)})
    assert result["w"].dtype == dtype
    assert result["w"].to(torch.complex128).tolist() == [1.5] * 3


def test_half_precision_is_summed_in_fp32(tmp_path: Path) -> None:
    largest = torch.finfo(torch.float16).max
    result = averaged(tmp_path, *[{"w": torch.full((2,), largest, dtype=torch.float16)}] * 3)
    assert result["w"].tolist() == [largest, largest]


def test_bool_buffers_are_kept_from_the_best(tmp_path: Path) -> None:
    result = averaged(tmp_path, {"m": torch.tensor([True, False])}, {"m": torch.tensor([True, True])})
    assert result["m"].tolist() == [True, False]


def test_tied_tensors_stay_tied(tmp_path: Path) -> None:
    first, second = torch.ones(4), torch.full((4,), 3.0)
    result = averaged(tmp_path, {"a": first, "b": first}, {"a": second, "b": second})
    assert result["b"].tolist() == [2.0] * 4
    assert result["a"].data_ptr() == result["b"].data_ptr()


def test_tensors_tied_in_one_member_only_are_averaged_apart(tmp_path: Path) -> None:
    shared = torch.ones(4)
    result = averaged(tmp_path, {"a": shared, "b": shared}, {"a": torch.ones(4), "b": torch.zeros(4)})
    assert (result["a"][0].item(), result["b"][0].item()) == (1.0, 0.5)


def test_views_and_transposed_tensors_are_averaged_by_value(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    members = [{"t": (base + k).t(), "v": (base + k)[1:, ::2]} for k in (0, 2)]
    result = averaged(tmp_path, *members)
    assert torch.equal(result["t"], (base + 1).t())
    assert torch.equal(result["v"], (base + 1)[1:, ::2])


def test_parts_smaller_than_a_tensor_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, original: tuple[dict[str, Any], dict[str, Tensor]]
) -> None:
    monkeypatch.setattr(average, "PART_BYTES", 50)
    message = job(GOLDEN, num=5, out=tmp_path)
    average.run(message)
    in_small_groups = open_checkpoint(message.outputs["averaged"])
    assert all(torch.equal(tensor, original[1][name]) for name, tensor in in_small_groups.items())


def test_tensors_are_the_same_however_many_threads_compute_them(
    tmp_path: Path, original: tuple[dict[str, Any], dict[str, Tensor]]
) -> None:
    message = replace(job(GOLDEN, num=5, out=tmp_path), threads=4)
    average.run(message)
    by_four = open_checkpoint(message.outputs["averaged"])
    assert list(by_four) == list(original[1])
    assert all(torch.equal(tensor, original[1][name]) for name, tensor in by_four.items())


def test_tensors_larger_than_a_part_are_averaged_in_every_element(tmp_path: Path) -> None:
    members = [{"w": torch.randn(2**20 + 1), "h": torch.randn(2**19 + 3).half()} for _ in range(3)]
    result = averaged(tmp_path, *members)
    assert torch.equal(result["w"], (members[0]["w"] + members[1]["w"] + members[2]["w"]) / 3)
    assert torch.equal(result["h"], (sum(member["h"].float() for member in members) / 3).half())


def test_large_weights_are_no_infinite_ones(tmp_path: Path) -> None:
    largest = torch.full((2,), torch.finfo(torch.float32).max)
    assert torch.equal(averaged(tmp_path, {"w": largest})["w"], largest)


def test_weights_that_are_too_large_to_add_up_are_named(tmp_path: Path) -> None:
    error = error_of(averaged, tmp_path, *[{"w": torch.full((2,), torch.finfo(torch.float32).max)}] * 2)
    assert (error.what, error.value) == ("weights are too large to add up", "w")


def test_the_digest_of_the_average_is_known_once_it_is_written(tmp_path: Path) -> None:
    message = job(GOLDEN, num=5, out=tmp_path)
    average.run(message)
    assert message.written == {"averaged": sha256(message.outputs["averaged"])}


def test_a_changed_byte_in_any_member_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    for index in range(3):
        save(tmp_path, f"m{index}", {"w": torch.full((1000,), 1.0), "b": torch.ones(2)}, loss=index)
    content = bytearray((tmp_path / "m2.pt").read_bytes())
    content[content.index(struct.pack("<f", 1.0) * 100) + 1] ^= 1
    (tmp_path / "m2.pt").write_bytes(content)
    error = error_of(run, tmp_path, num=3)
    assert error.where.endswith("m2.pt")
    assert "Bad CRC-32" in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


LARGE = {
    "layer.weight": torch.arange(2**19, dtype=torch.float32),
    "layer.index": torch.arange(2**17),
    "norm.weight": torch.ones(2**18),
    "norm.bias": torch.ones(2),
}


def damage(folder: Path, place: Callable[[bytes], int], *members: str, flip: int = 1) -> None:
    for member in members:
        content = bytearray((folder / f"{member}.pt").read_bytes())
        content[place(bytes(content))] ^= flip
        (folder / f"{member}.pt").write_bytes(content)


@pytest.mark.parametrize("member", ["m0", "m2"])
@pytest.mark.parametrize(
    "place",
    [
        lambda content: content.index(struct.pack("<4f", 0, 1, 2, 3)),
        lambda content: content.index(struct.pack("<4f", 2**18, 2**18 + 1, 2**18 + 2, 2**18 + 3)),
        lambda content: content.index(struct.pack("<2f", 2**19 - 2, 2**19 - 1)) + 7,
        lambda content: content.index(struct.pack("<4q", 1, 2, 3, 4)),
        lambda content: content.index(struct.pack("<f", 1) * 2**18) + 2**19,
        lambda content: content.index(struct.pack("<f", 7.5) * 2**18),
        lambda content: content.index(b"data/0"),
    ],
    ids=["first", "middle", "last", "not averaged", "equal in all", "beside the weights", "name of a record"],
)
def test_damage_to_a_large_tensor_of_any_member_is_named(
    tmp_path: Path, place: Callable[[bytes], int], member: str
) -> None:
    for index in range(4):
        save(
            tmp_path,
            f"m{index}",
            {"model": LARGE, "optimizer": {"state": {0: {"exp_avg": torch.full((2**18,), 7.5)}}}},
            loss=index,
        )
    damage(tmp_path, place, member)
    error = error_of(run, tmp_path, num=4)
    assert error.where.endswith(f"{member}.pt")
    assert "Bad CRC-32" in str(error.value) or "File name in directory" in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_same_damage_to_the_same_weights_of_two_members_is_named(tmp_path: Path) -> None:
    for index in range(4):
        save(tmp_path, f"m{index}", LARGE, loss=index)
    damage(tmp_path, lambda content: content.index(struct.pack("<f", 1) * 2**18) + 2**19, "m1", "m2")
    assert error_of(run, tmp_path, num=4).where.endswith("m1.pt")


def test_damage_that_makes_a_weight_infinite_is_named_as_damage(tmp_path: Path) -> None:
    for index in range(2):
        save(tmp_path, f"m{index}", {"w": torch.full((2**18,), 1.0)}, loss=index)
    damage(tmp_path, lambda content: content.index(struct.pack("<f", 1) * 2**18) + 2**19 + 3, "m1", flip=0x40)
    error = error_of(run, tmp_path)
    assert error.where.endswith("m1.pt")
    assert "Bad CRC-32" in str(error.value)


def test_large_tensors_of_archives_without_checksums_are_averaged(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        result = averaged(tmp_path, LARGE, LARGE)
    finally:
        torch.serialization.set_crc32_options(True)
    assert all(torch.equal(result[name], tensor) for name, tensor in LARGE.items())


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        message = job(GOLDEN, num=5, out=folder)
        average.run(message)
        files.append(message.outputs["averaged"].read_bytes())
    assert files[0] == files[1]


class Hostile:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("echo obeyed",)


GOOD = {"w": torch.ones(300), "b": torch.ones(2)}


@pytest.mark.parametrize(
    ("tensors", "value"),
    [
        ({"w": torch.ones(300)}, "b float32[2] / missing"),
        (GOOD | {"c": torch.ones(1)}, "c missing / float32[1]"),
        (GOOD | {"b": torch.ones(3)}, "b float32[2] / float32[3]"),
        (GOOD | {"b": torch.ones(2).half()}, "b float32[2] / float16[2]"),
        (GOOD | {"b": torch.tensor([0.0, torch.nan])}, "b"),
        (GOOD | {"b": torch.tensor([0.0, -torch.inf])}, "b"),
        ({"model": GOOD, "ema": GOOD}, "'model' and 'ema'"),
        (GOOD | {"b": Hostile()}, "posix.system"),
        (GOOD | {"b": torch.nn.Linear(1, 1)}, "torch.nn.modules.linear.Linear"),
    ],
)
def test_a_member_that_does_not_fit_is_refused(tmp_path: Path, tensors: dict[str, Any], value: str) -> None:
    save(tmp_path, "m0", GOOD, loss=0)
    save(tmp_path, "m1", tensors, loss=1)
    error = error_of(run, tmp_path)
    assert error.where.endswith("m1.pt")
    assert value in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (lambda whole: whole[:-200], "download"),
        (lambda whole: whole[:100], "download"),
        (lambda _: b"", "download"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_a_damaged_member_is_named(tmp_path: Path, content: Callable[[bytes], bytes], remedy: str) -> None:
    save(tmp_path, "m0", GOOD, loss=0)
    save(tmp_path, "m1", GOOD, loss=1)
    (tmp_path / "m1.pt").write_bytes(content((tmp_path / "m1.pt").read_bytes()))
    error = error_of(run, tmp_path)
    assert error.where.endswith("m1.pt")
    assert remedy in error.remedy


def test_a_model_beside_its_teacher_is_refused_before_anything_is_averaged(tmp_path: Path) -> None:
    both = {f"{model}.{name}": tensor for model in ("teacher", "student") for name, tensor in GOOD.items()}
    for index in (0, 1):
        save(tmp_path, f"m{index}", both, loss=index)
    error = error_of(run, tmp_path)
    assert error.value == "'student.' and 'teacher.'"
    assert list((tmp_path / "out").iterdir()) == []


def test_averaged_submodules_behind_ddp_are_read_where_their_names_are_known(tmp_path: Path) -> None:
    averaged(tmp_path, {"encoder.module.w": torch.ones(2)}, {"encoder.module.w": torch.zeros(2)})
    assert open_checkpoint(tmp_path / "out" / "flow.pt", ["encoder.w"])["encoder.w"].tolist() == [0.5, 0.5]


def test_only_the_first_ten_differences_are_named(tmp_path: Path) -> None:
    save(tmp_path, "m0", {f"w{k}": torch.ones(1) for k in range(20)})
    save(tmp_path, "m1", {f"w{k}": torch.ones(2) for k in range(20)})
    error = error_of(run, tmp_path)
    assert error.what.endswith(" 20")
    assert error.value.count("float32[1]") == 10


def test_a_file_with_weights_saved_before_torch_1_6_can_be_averaged(tmp_path: Path) -> None:
    save(tmp_path, "m0", {"w": torch.ones(2)})
    shutil.copy(tmp_path / "m0.yaml", tmp_path / "m1.yaml")
    torch.save({"w": torch.zeros(2)}, tmp_path / "m1.pt", _use_new_zipfile_serialization=False)
    assert open_checkpoint(run(tmp_path)[1])["w"].tolist() == [0.5, 0.5]
