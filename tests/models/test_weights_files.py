"""Files of weights as training tools and people write them: what is unwrapped, and what is refused with a remedy."""

import argparse
import datetime
import json
import os
import pickle
import shlex
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tasks.models.loading import archive
from tasks.models.loading.checkpoint_file import how_read, open_checkpoint, open_dict
from tests.support.errors import error_of

W = {"enc.weight": torch.arange(6.0).reshape(2, 3), "enc.bias": torch.ones(2), "enc.steps": torch.tensor(7)}
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3), "step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}


def behind(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in W.items()}


def run_command_of(remedy: str) -> None:
    subprocess.run([sys.executable, *shlex.split(remedy.split(": ", 1)[1])[1:]], check=True)


WRAPPED: dict[str, tuple[Any, str]] = {
    "plain": (W | {"epoch": 3, "step": 100}, ""),
    "numbers beside": (W | {"lr": 1e-5, "loss": 0.3, "tag": None}, "left out: lr, loss, tag"),
    "numpy beside": (
        W | {"loss": np.float64(0.3), "best": np.bool_(True), "mean": np.ones(3), "day": np.datetime64("2025-01-02")},
        "left out: loss, best, mean, day",
    ),
    "ddp": (behind("module.") | {"epoch": 3}, "names without 'module.'"),
    "compiled ddp": (behind("module._orig_mod."), "names without '_orig_mod.'"),
    "state_dict": ({"state_dict": W, "optimizer": OPTIMIZER, "epoch": 1}, "read from 'state_dict'"),
    "model_state_dict": ({"model_state_dict": W, "optimizer_state_dict": OPTIMIZER}, "read from 'model_state_dict'"),
    "weights": ({"weights": W, "scheduler": {"last_epoch": 3}}, "read from 'weights'"),
    "twice": ({"checkpoint": {"model": behind("module."), "iteration": 3}}, "read from 'model'"),
    "deepspeed": ({"module": W, "optimizer": None, "buffer_names": [], "ds_version": "0.15"}, "read from 'module'"),
    "lightning": (
        {"state_dict": W, "optimizer_states": [OPTIMIZER], "callbacks": {"a": {"best": torch.ones(2)}}, "loops": {}},
        "left out: optimizer_states, callbacks, loops",
    ),
    "random state": ({"model": W, "rng_state": torch.zeros(16, dtype=torch.uint8)}, "left out: rng_state"),
    "named optimizer state": ({"model": W, "optim": {"state": W}}, "left out: optim"),
    "gan": ({"generator": W, "discriminator": {"w": torch.ones(3)}}, "read from 'generator'"),
    "averaged": ({"n_averaged": torch.tensor(4), **behind("module.")}, "left out: n_averaged"),
    "ema only": ({"ema": {"initted": torch.tensor(True), **behind("ema_model.")}}, "left out: initted"),
    "fsdp": ({name.replace("enc.", "enc._fsdp_wrapped_module."): t for name, t in W.items()}, "wrapped submodules"),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_one_set_of_weights_is_found_and_reported(tmp_path: Path, kind: str) -> None:
    content, how = WRAPPED[kind]
    torch.save(content, tmp_path / "w.pt")
    found = open_checkpoint(tmp_path / "w.pt")
    assert list(found) == list(W)
    assert all(torch.equal(tensor, W[name]) for name, tensor in found.items())
    assert how in "; ".join(how_read(tmp_path / "w.pt"))
    assert bool(how) == bool(how_read(tmp_path / "w.pt"))


@pytest.mark.parametrize("prefix", ["model.", "net.flow.", "generator."])
def test_any_prefix_is_taken_off_where_the_names_are_known(tmp_path: Path, prefix: str) -> None:
    torch.save(behind(prefix) | {"critic.weight": torch.ones(1)}, tmp_path / "w.pt")
    assert list(open_checkpoint(tmp_path / "w.pt", list(W))) == list(W)
    assert how_read(tmp_path / "w.pt") == [f"names without {prefix!r}", "left out: critic.weight"]
    assert list(open_checkpoint(tmp_path / "w.pt")) == [*behind(prefix), "critic.weight"]


def momentum() -> dict[str, Any]:
    return {"state": {name: {"exp_avg": torch.ones(2)} for name in W}}


EMA = behind("module.")
BESIDE_OTHERS: dict[str, tuple[Any, list[str]]] = {
    "statistics": ({"model": W, "cmvn": {"mean": torch.ones(3)}}, ["left out: cmvn", "read from 'model'"]),
    "a tensor": ({"model": W, "best_loss": torch.ones(1)}, ["left out: best_loss", "read from 'model'"]),
    "optimizer by name": ({"model": W, "solver": momentum()}, ["left out: solver", "read from 'model'"]),
    "embeddings": (W | {"spk_emb": {"anna": torch.ones(3)}}, ["left out: spk_emb"]),
    "counter and state": (
        W | {"spk_emb": {"anna": torch.ones(3)}, "rng_state": torch.ones(3), "loss": torch.tensor(0.1)},
        ["left out: spk_emb, rng_state, loss"],
    ),
    "criterion": ({"model": W, "criterion": {"weight": torch.ones(3)}}, ["left out: criterion", "read from 'model'"]),
    "three parts": (
        {"llm": {"embed.weight": torch.ones(2)}, "flow": behind("module."), "hift": {"conv.weight": torch.ones(2)}},
        ["left out: llm, hift", "read from 'flow'", "names without 'module.'"],
    ),
    "deep": (
        {"a": {"model": {"flow": W, "hift": {"conv.weight": torch.ones(2)}}}, "cmvn": {"mean": torch.ones(3)}},
        ["left out: cmvn", "read from 'a'", "read from 'model'", "left out: hift", "read from 'flow'"],
    ),
    "parts behind ddp": (
        {
            "model": {f"net.{name.replace('.', '.module.')}": t for name, t in W.items()},
            "cmvn": {"mean": torch.ones(3)},
        },
        [
            "left out: cmvn",
            "read from 'model'",
            "names without the 'module.' of wrapped submodules",
            "names without 'net.'",
        ],
    ),
}


@pytest.mark.parametrize("kind", BESIDE_OTHERS)
def test_the_only_set_that_has_the_expected_names_is_read_and_reported(tmp_path: Path, kind: str) -> None:
    content, how = BESIDE_OTHERS[kind]
    torch.save(content, tmp_path / "w.pt")
    found = open_checkpoint(tmp_path / "w.pt", list(W))
    assert list(found) == list(W)
    assert all(torch.equal(tensor, W[name]) for name, tensor in found.items())
    assert how_read(tmp_path / "w.pt") == how


def test_submodules_behind_ddp_are_found_by_the_expected_names_alone(tmp_path: Path) -> None:
    names = {"a.module.w": torch.ones(1), "b.module.w": torch.ones(2)}
    torch.save(names, tmp_path / "w.pt")
    assert list(open_checkpoint(tmp_path / "w.pt", list(names))) == list(names)
    assert list(open_checkpoint(tmp_path / "w.pt", ["a.w", "b.w"])) == ["a.w", "b.w"]


WITHOUT_DOTS = {name.replace(".", ""): tensor for name, tensor in W.items()}
KNOWN_BUT_AMBIGUOUS: dict[str, tuple[Any, str]] = {
    "average under a key": ({"ema": EMA, "model": W}, "'ema' and 'model'"),
    "average without dots": ({"ema": WITHOUT_DOTS, "model": W}, "'model' and 'ema'"),
    "average beside": (
        {f"model_ema.{name}": t for name, t in WITHOUT_DOTS.items()} | behind("model."),
        "'model.' and 'model_ema.'",
    ),
    "tensors beside first": ({"ema": WITHOUT_DOTS} | W, "'ema' and tensors beside"),
    "reference": (behind("reference.") | behind("policy."), "'policy.' and 'reference.'"),
    "reference beside": (behind("ref_model.") | W, "no prefix and 'ref_model.'"),
    "teacher": (behind("teacher.") | behind("student."), "'student.' and 'teacher.'"),
}


@pytest.mark.parametrize("kind", KNOWN_BUT_AMBIGUOUS)
def test_where_names_are_known_the_command_saves_the_set_that_has_most_of_them(tmp_path: Path, kind: str) -> None:
    content, value = KNOWN_BUT_AMBIGUOUS[kind]
    torch.save(content, tmp_path / "w.pt")
    error = error_of(open_checkpoint, tmp_path / "w.pt", list(W))
    assert error.value == value
    run_command_of(error.remedy)
    (saved,) = set(tmp_path.iterdir()) - {tmp_path / "w.pt"}
    assert open_checkpoint(saved, list(W)).keys() == W.keys()


def test_layers_that_are_called_references_are_no_second_model(tmp_path: Path) -> None:
    layers = W | {f"{layer}.weight": torch.ones(1) for layer in ("ref", "proj", "out")}
    torch.save(layers, tmp_path / "w.pt")
    assert list(open_checkpoint(tmp_path / "w.pt")) == list(layers)


def test_a_mapping_that_contains_itself_ends_in_a_message(tmp_path: Path) -> None:
    content: dict[str, Any] = dict(W)
    content["itself"] = content
    torch.save(content, tmp_path / "w.pt")
    assert "several sets" in str(error_of(open_checkpoint, tmp_path / "w.pt", list(W)))


AMBIGUOUS = {
    "two mappings": ({"model": W, "ema": W}, "'model' and 'ema'", W),
    "tensors beside": (W | {"ema": behind("module.")}, "'ema' and tensors beside", W),
    "nested": ({"state_dict": {"ema": W, "model": W}}, "'ema' and 'model'", W),
    "teacher": (
        behind("teacher.") | behind("student.") | {"temperature": torch.ones(1)},
        "'student.' and 'teacher.'",
        W,
    ),
    "reference": (behind("ref_model.") | W, "no prefix and 'ref_model.'", W),
    "two prefixes": ({"c": {**behind("ema_model."), **behind("online_model.")}}, "'ema_model.' and 'online_model.'", W),
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_of_several_sets_none_is_chosen_and_the_command_in_the_remedy_works(tmp_path: Path, kind: str) -> None:
    content, value, expected = AMBIGUOUS[kind]
    torch.save(content, tmp_path / "w.pt")
    error = error_of(open_checkpoint, tmp_path / "w.pt")
    assert (error.what.startswith("contains several sets of weights"), error.value) == (True, value)
    run_command_of(error.remedy)
    (saved,) = set(tmp_path.iterdir()) - {tmp_path / "w.pt"}
    assert open_checkpoint(saved).keys() == expected.keys()


def test_names_behind_two_prefixes_are_ambiguous_where_they_are_known(tmp_path: Path) -> None:
    twice = {**behind("first."), **behind("second.")}
    save_file({name: tensor.clone() for name, tensor in twice.items()}, tmp_path / "w.pt")
    error = error_of(open_checkpoint, tmp_path / "w.pt", list(W))
    assert error.value == "'first.' and 'second.'"
    run_command_of(error.remedy)
    assert open_checkpoint(tmp_path / "w.first.pt").keys() == W.keys()


@pytest.mark.parametrize("names", [["q.lora_A.default.weight"], ["q.base_layer.weight"], ["q.lora_embedding_A"]])
def test_adapters_that_were_not_merged_are_named(tmp_path: Path, names: list[str]) -> None:
    torch.save(W | dict.fromkeys(names, torch.ones(2)), tmp_path / "w.pt")
    error = error_of(open_checkpoint, tmp_path / "w.pt")
    assert "adapters (LoRA)" in error.what
    assert "merge_and_unload" in error.remedy


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_safetensors_are_recognized_by_their_content(tmp_path: Path, name: str) -> None:
    save_file(behind("module."), tmp_path / name)
    assert open_checkpoint(tmp_path / name).keys() == W.keys()


def sharded(folder: Path, name: str, weights: dict[str, Tensor]) -> Path:
    """Files of one tensor each, and their index; `name` is `flow-{}.safetensors` for example."""
    folder.mkdir(exist_ok=True)
    files = {key: name.format(f"0000{number}-of-00003") for number, key in enumerate(weights, start=1)}
    for key, file in files.items():
        if file.endswith(".safetensors"):
            save_file({key: weights[key]}, folder / file)
        else:
            torch.save({key: weights[key]}, folder / file)
    index = folder / f"{name.replace('-{}', '')}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return index


@pytest.mark.parametrize("name", ["model-{}.safetensors", "pytorch_model-{}.bin"])
def test_the_index_of_several_files_is_refused_with_the_command_that_joins_them(tmp_path: Path, name: str) -> None:
    index = sharded(tmp_path / "it's here", name, W)
    sharded(tmp_path / "it's here", "hift-{}.safetensors", {"conv.weight": torch.ones(2)})
    run_command_of(error_of(open_checkpoint, index).remedy)
    joined = index.with_name(f"{name.partition('-')[0]}.joined.pt")
    assert {n: t.tolist() for n, t in open_checkpoint(joined).items()} == {n: t.tolist() for n, t in W.items()}


def test_files_that_an_index_names_and_that_are_missing_are_named(tmp_path: Path) -> None:
    index = sharded(tmp_path, "model-{}.safetensors", W)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    assert error_of(open_checkpoint, index).value == "model-00002-of-00003.safetensors"


@pytest.mark.parametrize("text", ["{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": []}', "{"])
def test_an_index_that_names_no_files_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert "ownload it again" in error_of(open_checkpoint, tmp_path / "model.safetensors.index.json").remedy


class Hostile:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("echo obeyed",)


def nested_tensor() -> Tensor:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


BAD: dict[str, tuple[Any, str]] = {
    "sparse csr": (W | {"b": torch.eye(3).to_sparse_csr()}, "b: torch.sparse_csr, torch.float32"),
    "sparse": (W | {"b": torch.eye(3).to_sparse()}, "b: torch.sparse_coo, torch.float32"),
    "nested": (W | {"b": nested_tensor()}, "b: nested"),
    "quantized": (W | {"b": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, "b: "),
    "meta": (W | {"b": torch.ones(2, device="meta")}, "b: without data"),
    "repeated": (W | {"b": torch.ones(1).expand(10**13)}, "b: [10000000000000]"),
    "list": ([1, 2], "list"),
    "tensor": (torch.ones(2), "Tensor"),
    "nothing": ({}, "an empty dict"),
    "numpy arrays": ({"w": np.ones(2)}, "'w': NumpyValue"),
    "objects in numpy": (W | {"b": np.array([Hostile()], dtype=object)}, "posix.system"),
    "no weights": ({"epoch": 1, "loss": 0.3}, "'epoch': int, 'loss': float"),
    "hostile": (W | {"b": Hostile()}, "posix.system"),
    "long name": ({"k" * 10**6: torch.eye(3).to_sparse_csr()}, "characters left out"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "pickle"])
def test_what_is_no_dense_tensor_is_named(
    tmp_path: Path, kind: str, archive: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    content, value = BAD[kind]
    if kind == "nested" and not archive:
        pytest.skip("PyTorch writes a file that it cannot read")
    try:
        torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=archive)
    except (RuntimeError, NotImplementedError):
        pytest.skip("PyTorch does not write it in this format")
    error = error_of(open_checkpoint, tmp_path / "w.pt")
    assert value in str(error)
    assert len(str(error)) < 2000
    assert "obeyed" not in capfd.readouterr().out


SAFE_TO_NAME = [argparse.Namespace(lr=1), Path("/x"), datetime.date(2025, 1, 2), np.random.default_rng(0)]


@pytest.mark.parametrize("beside", SAFE_TO_NAME, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    "wrapped", [W | {"lr": 1}, {"model": W, "optim": OPTIMIZER}, {"state": {"model": W | {"num_updates": 3}}}]
)
def test_objects_of_a_trainer_beside_the_weights_are_refused_with_a_command_that_works(
    tmp_path: Path, beside: object, wrapped: dict[str, Any]
) -> None:
    torch.save({**wrapped, "args": beside}, tmp_path / "w.pt")
    error = error_of(open_checkpoint, tmp_path / "w.pt")
    assert str(error.value).startswith(("argparse.Namespace", "pathlib.", "datetime.date", "numpy.random."))
    assert error.remedy.startswith("If you trust the file")
    run_command_of(error.remedy)
    assert open_checkpoint(tmp_path / "w.tensors.pt").keys() == W.keys()


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "pickle"])
def test_a_newer_pickle_protocol_is_named_with_a_command_that_works(
    tmp_path: Path, protocol: int, archive: bool
) -> None:
    kind = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": archive}
    torch.save({"model": W | {"num_updates": 3}, "loss": np.float32(1)}, tmp_path / "w.pt", **kind)
    error = error_of(open_checkpoint, tmp_path / "w.pt")
    assert (error.value, "download" in error.remedy) == (f"pickle_protocol={protocol}", False)
    run_command_of(error.remedy)
    assert open_checkpoint(tmp_path / "w.tensors.pt").keys() == W.keys()


def test_a_pickle_protocol_that_can_be_read_is_read(tmp_path: Path) -> None:
    torch.save(W | {"loss": 0.3}, tmp_path / "w.pt", pickle_protocol=3)
    assert open_checkpoint(tmp_path / "w.pt").keys() == W.keys()


def sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**11)


def torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)


def compressed_zeros(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/data.pkl", "w") as file:
        for _ in range(80):
            file.write(bytes(2**20))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "is a named pipe"),
        (Path.mkdir, "is a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device"),
        (lambda path: path.symlink_to("nowhere"), "a link to a file that does not exist"),
        (sparse_file, "neither a PyTorch checkpoint nor safetensors"),
        (Path.touch, "an empty file"),
        (lambda path: path.write_bytes(pickle.dumps({"w": 1})), "is not a whole PyTorch checkpoint"),
        (lambda path: path.write_bytes(struct.pack("<q", 20) + b"{" + b" " * 30), "is not a whole safetensors file"),
        (lambda path: path.write_bytes(struct.pack("<q", 2**62) + b"{}"), "neither a PyTorch checkpoint"),
        (torchscript, "is a TorchScript file"),
        (compressed_zeros, "many times larger than the file"),
    ],
    ids=["pipe", "folder", "device", "dangling", "sparse", "empty", "pickle", "header", "size", "script", "bomb"],
)
def test_what_is_no_file_of_weights_is_refused_before_it_is_read(
    tmp_path: Path, make: Callable[[Path], Any], message: str
) -> None:
    make(tmp_path / "w.pt")
    assert message in str(error_of(open_checkpoint, tmp_path / "w.pt"))


def test_a_file_older_than_archives_is_read(tmp_path: Path) -> None:
    torch.save(W | {"epoch": 1}, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    assert open_checkpoint(tmp_path / "w.pt").keys() == W.keys()


def test_an_archive_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(W, tmp_path / "w.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert open_checkpoint(tmp_path / "w.pt").keys() == W.keys()


def test_a_changed_byte_among_the_weights_is_noticed(tmp_path: Path) -> None:
    torch.save({"w": torch.full((1000,), 1.0)}, tmp_path / "w.pt")
    content = bytearray((tmp_path / "w.pt").read_bytes())
    content[content.index(struct.pack("<f", 1.0) * 100) + 1] ^= 1
    (tmp_path / "w.pt").write_bytes(content)
    assert "Bad CRC-32 for file 'w/data/0'" in str(error_of(open_checkpoint, tmp_path / "w.pt"))


def test_recorded_inputs_are_not_unwrapped(tmp_path: Path) -> None:
    torch.save({"state_dict": W}, tmp_path / "w.pt")
    assert open_dict(tmp_path / "w.pt").keys() == {"state_dict"}


def test_an_archive_whose_checksums_were_compared_is_not_read_for_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "w.pt"
    torch.save(W, file)
    open_checkpoint(file)
    monkeypatch.setattr(archive, "_check_record", None)
    assert open_checkpoint(file).keys() == W.keys()
    torch.save({"w": torch.ones(1)}, file)
    assert "NoneType" in str(error_of(open_checkpoint, file))
