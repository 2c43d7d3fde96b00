"""Finds the checkpoints of a training folder by their sidecars and chooses which of them to average."""

import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import UserError, listed, python_command, shortened_name
from tasks.sidecar import integer_of, loss_of, read_sidecar
from tasks.user_files import join_command, require_listing

NOT_SIDECARS = ("train", "init", ".")  # hidden files are the file system's or an editor's
WEIGHTS = (".pt", ".safetensors")
READY = ("pytorch_model.bin", "model.safetensors")  # names that converters, accelerate and transformers give
OTHER_ENDINGS = (".bin", ".ckpt", ".pth", ".pth.tar", ".tar")
CONVERTER = "zero_to_fp32.py"  # which DeepSpeed puts beside its files
ENGINE_FOLDER = "is a folder that a training engine (DeepSpeed, FSDP, accelerate) has written, not a file of weights"


@dataclass(frozen=True)
class Checkpoint:
    """One candidate: a weights file with the facts of its sidecar.

    Attributes:
        name: the file name without its ending, `epoch_3_whole`.
        weights: the `.pt` file.
        sidecar: the `.yaml` file.
        epoch: epoch it was saved in, from 0.
        step: optimizer steps taken until then.
        loss: validation loss, NaN where it is not a number; None where the sidecar has none.
        written_loss: as the sidecar has it.
    """

    name: str
    weights: Path
    sidecar: Path
    epoch: int
    step: int
    loss: float | None
    written_loss: str = ""

    @property
    def diverged(self) -> bool:
        """Whether its validation loss is not a finite number; such a checkpoint is never chosen."""
        return self.loss is not None and not math.isfinite(self.loss)

    @property
    def why_left_out(self) -> str:
        """Its name and its loss."""
        return f"{shortened_name(self.name)} (validation loss {self.written_loss})"


def survey(folder: Path) -> list[Checkpoint]:
    """All checkpoints of a training folder, ordered by file name.

    Every sidecar stands for its own `.pt`: `epoch_1_step_500.yaml` for `epoch_1_step_500.pt`. (The original
    script takes `epoch_1_whole.pt` for it.) So checkpoints saved within an epoch compete with those saved at its end.

    Raises:
        UserError: no such folder, one that cannot be read, nothing in it to choose from, or a sidecar that `gather`
            refuses.
    """
    require_listing(folder)
    if not folder.is_dir():
        raise UserError("no such folder of checkpoints", where=folder, remedy="Name a folder that training has written")
    found = gather({path.name: path for path in folder.iterdir() if not path.is_dir()})
    if not found:
        raise UserError(
            "no checkpoint with a sidecar in this folder",
            where=folder,
            remedy="Each NAME.pt to choose from needs the NAME.yaml that training wrote beside it",
        )
    return found


def gather(files: Mapping[str, Path]) -> list[Checkpoint]:
    """The checkpoints among `files` (file name -> file), ordered by file name.

    A `.pt` without a sidecar is left out: neither its loss nor its age is known without opening it. So is a YAML file
    that has no `.pt` and neither epoch nor loss (for example a copy of the model's configuration): it is no sidecar.

    Raises:
        UserError: a sidecar that is not YAML, lacks its `.pt`, or contains a value of the wrong type.
    """
    sidecars = sorted(n for n in files if n.endswith(".yaml") and not n.startswith(NOT_SIDECARS))
    weights = {name: _weights_of(name, files) for name in sidecars}
    read = {name: read_sidecar(files[name], alone=weights[name] is None) for name in sidecars}
    orphans = [n for n in sidecars if weights[n] is None and read[n].keys() & {"epoch", "loss_dict"}]
    if orphans:
        raise _orphaned(orphans, files[orphans[0]].parent)
    return [_checkpoint(file, sidecar=files[n], facts=read[n]) for n, file in weights.items() if file]


def select(checkpoints: Iterable[Checkpoint], *, num: int, val_best: bool) -> list[Checkpoint]:
    """The `num` checkpoints with the lowest validation loss, or else the `num` newest by (epoch, step); best first.

    Equal losses go by (epoch, step, name). A checkpoint whose loss is NaN or infinite is never chosen; one whose
    sidecar has no loss only without `val_best`.

    Raises:
        UserError: fewer than `num` can be chosen.
    """
    every = list(checkpoints)
    usable = [c for c in every if not c.diverged and not (val_best and c.loss is None)]
    if len(usable) < num:
        raise _too_few(every, usable=len(usable), num=num)
    if val_best:
        return sorted(usable, key=lambda c: (c.loss, c.epoch, c.step, c.name))[:num]
    return sorted(usable, key=lambda c: (c.epoch, c.step, c.name), reverse=True)[:num]


def _weights_of(sidecar: str, files: Mapping[str, Path]) -> Path | None:
    names = (sidecar.removesuffix(".yaml") + ending for ending in WEIGHTS)
    return next((files[name] for name in names if name in files), None)


def _checkpoint(weights: Path, *, sidecar: Path, facts: dict[str, Any]) -> Checkpoint:
    loss, written = loss_of(facts, sidecar)
    return Checkpoint(
        name=sidecar.name.removesuffix(".yaml"),
        weights=weights,
        sidecar=sidecar,
        epoch=integer_of(facts, "epoch", sidecar),
        step=integer_of(facts, "step", sidecar),
        loss=loss,
        written_loss=written,
    )


def _orphaned(sidecars: list[str], folder: Path) -> UserError:
    """Sidecars without weights: passing over them would silently average something worse than what ranks best."""
    for name in sidecars:
        stem = name.removesuffix(".yaml")
        for place in (folder / f"{stem}.pt", folder / stem):  # the first is what converters make of the second
            if place.is_dir() and (remedy := conversion(place)):
                return UserError(ENGINE_FOLDER, where=place, remedy=f"Convert each such folder: {remedy}")
        for ending in OTHER_ENDINGS:
            if (other := folder / f"{stem}{ending}").is_file():
                remedy = f"Rename each such file: {shlex.join(['mv', str(other), str(folder / f'{stem}.pt')])}"
                what = f"weights with a sidecar must end in {' or '.join(WEIGHTS)}"
                return UserError(what, where=other, value=ending, remedy=remedy)
    return UserError(
        "sidecar without its weights file",
        where=folder,
        value=listed(sidecars),
        remedy="Put the .pt of the same name back, or delete the sidecar",
    )


def conversion(folder: Path) -> str:
    """The command that makes NAME.pt from a folder that a training engine has written; empty for another folder.

    The engine's converter reads the shards of the optimizer, which not every run saves.

    Raises:
        UserError: the folder cannot be read.
    """
    require_listing(folder)
    target = folder.with_name(f"{folder.name.removesuffix('.pt')}.pt")
    states = folder / "mp_rank_00_model_states.pt"
    if taken := _taken_out(folder, target):
        return taken
    if states.is_file() and not any(folder.glob("*optim_states.pt")):
        loaded = f"torch.load({str(states)!r}, map_location='cpu')['module']"
        command = python_command(f"import torch; torch.save({loaded}, {str(target)!r})")
        return f"{command} ({CONVERTER} inside needs the shards of the optimizer, which are not there)"
    if shards := _distributed(folder):
        module = "torch.distributed.checkpoint.format_utils"
        return shlex.join(["python", "-m", module, "dcp_to_torch", str(shards), str(target)])
    if (folder / CONVERTER).is_file() or states.is_file():
        return shlex.join(["python", str(folder / CONVERTER), str(folder.parent), str(target), "-t", folder.name])
    return ""


def _distributed(folder: Path) -> Path | None:
    """Where FSDP has written the weights: accelerate gives them a folder inside, beside that of the optimizer."""
    for each in (folder, *sorted(inner for inner in folder.iterdir() if "optim" not in inner.name)):
        if any(each.glob("*.distcp")):
            return each
    return None


def _taken_out(folder: Path, target: Path) -> str:
    """The command for a folder that has weights ready to be read, in one file or in several with their index."""
    moved = folder.with_name(f"{folder.name}.folder") if folder == target else folder  # makes room for the file
    whole = next((name for name in READY if (folder / name).is_file()), None)
    index = next((f"{name}.index.json" for name in READY if (folder / f"{name}.index.json").is_file()), None)
    if whole:
        named = target if folder == target or not whole.endswith(".safetensors") else target.with_suffix(".safetensors")
        command = shlex.join(["cp" if moved == folder else "mv", str(moved / whole), str(named)])
    elif index:
        command = join_command(moved / index, target)
    else:
        return ""
    return command if moved == folder else f"{shlex.join(['mv', str(folder), str(moved)])} && {command}"


def _too_few(every: list[Checkpoint], *, usable: int, num: int) -> UserError:
    left_out = len(every) - usable
    return UserError(
        f"too few checkpoints to average: {num} asked for, {usable} found"
        + (f" and {left_out} more without a finite validation loss{_listed(every)}" if left_out else ""),
        where=every[0].weights.parent if every else "",
        value=f"average.num={num}",
        remedy=f"Lower average.num to {usable} or train further" if usable else "Train first",
    )


def _listed(every: list[Checkpoint]) -> str:
    names = [one.why_left_out for one in every if one.diverged]
    return f": {listed(names)}" if names else ""
