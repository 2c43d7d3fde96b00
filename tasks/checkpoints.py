"""Reads the sidecars that training writes next to its checkpoints and chooses which checkpoints to average.

A sidecar is `NAME.yaml` beside `NAME.pt`. Some contain pickled Python objects under YAML tags: tags are ignored.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import UserError

NOT_SIDECARS = ("train", "init", ".")  # hidden files are the file system's or an editor's
NAMED_AT_MOST = 10
MAX_DEPTH = 100

# A base loader turns every node into str, list or dict, whatever its tag says.
_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


@dataclass(frozen=True)
class Checkpoint:
    """One candidate: a weights file with the facts of its sidecar.

    Attributes:
        name: the file name without its ending, `epoch_3_whole`.
        weights: the `.pt` file.
        sidecar: the `.yaml` file.
        epoch: epoch it was saved in, from 0.
        step: optimizer steps taken until then.
        loss: validation loss; None where the sidecar has none.
    """

    name: str
    weights: Path
    sidecar: Path
    epoch: int
    step: int
    loss: float | None

    @property
    def diverged(self) -> bool:
        """Whether its validation loss is NaN or infinite; such a checkpoint is never chosen."""
        return self.loss is not None and not math.isfinite(self.loss)


def survey(folder: Path) -> list[Checkpoint]:
    """All checkpoints of a training folder, ordered by file name.

    Every sidecar stands for its own `.pt`: `epoch_1_step_500.yaml` for `epoch_1_step_500.pt`. (The original
    script takes `epoch_1_whole.pt` for it.) So checkpoints saved within an epoch compete with those saved at its end.

    Raises:
        UserError: no such folder, nothing in it to choose from, or a sidecar that `gather` refuses.
    """
    if not folder.is_dir():
        raise UserError("no such folder of checkpoints", where=folder, remedy="Name a folder that training has written")
    found = gather({path.name: path for path in folder.iterdir() if path.is_file()})
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
    read = {name: _mapping(files[name], alone=_weights_name(name) not in files) for name in sidecars}
    orphans = [n for n in sidecars if _weights_name(n) not in files and read[n].keys() & {"epoch", "loss_dict"}]
    if orphans:
        # Passing over them would silently average something worse than what the sidecars rank best.
        raise UserError(
            "sidecar without its weights file",
            where=files[orphans[0]].parent,
            value=", ".join(orphans[:NAMED_AT_MOST]),
            remedy="Put the .pt of the same name back, or delete the sidecar",
        )
    paired = [n for n in sidecars if _weights_name(n) in files]
    return [_checkpoint(files[_weights_name(n)], sidecar=files[n], facts=read[n]) for n in paired]


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


def _weights_name(sidecar: str) -> str:
    return sidecar.removesuffix(".yaml") + ".pt"


def _mapping(sidecar: Path, *, alone: bool) -> dict[str, Any]:
    try:
        with sidecar.open("rb") as file:
            text = file.read()
        _require_shallow(text)
        content = yaml.load(text, Loader=_Loader)
    except (OSError, yaml.YAMLError, UnicodeError) as error:
        reason = " ".join(str(error).split())
        raise _bad(sidecar, "cannot be read as YAML", reason) from error
    if not isinstance(content, dict) and alone:
        return {}  # notes, a list: no training wrote it
    if not isinstance(content, dict):
        raise _bad(sidecar, "is not a YAML mapping", type(content).__name__)
    return content


def _require_shallow(text: bytes) -> None:
    """The C loader recurses without a limit: some ten thousand nested brackets would crash the process."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH}")


def _checkpoint(weights: Path, *, sidecar: Path, facts: dict[str, Any]) -> Checkpoint:
    return Checkpoint(
        name=sidecar.name.removesuffix(".yaml"),
        weights=weights,
        sidecar=sidecar,
        epoch=_integer(facts, "epoch", sidecar),
        step=_integer(facts, "step", sidecar),
        loss=_loss(facts, sidecar),
    )


def _integer(facts: dict[str, Any], key: str, sidecar: Path) -> int:
    try:
        return int(facts[key])
    except KeyError:
        raise _bad(sidecar, f"has no '{key}'", None) from None
    except (TypeError, ValueError):
        raise _bad(sidecar, f"'{key}' is not an integer", facts[key]) from None


def _loss(facts: dict[str, Any], sidecar: Path) -> float | None:
    losses = facts.get("loss_dict", {})
    if not isinstance(losses, dict):
        raise _bad(sidecar, "'loss_dict' is not a mapping", losses)
    if "loss" not in losses:
        return None
    try:
        return float(re.sub(r"\.(nan|inf)$", r"\1", losses["loss"], flags=re.IGNORECASE))  # YAML's .nan is Python's nan
    except (TypeError, ValueError):
        raise _bad(sidecar, "'loss_dict.loss' is not a number", losses["loss"]) from None


def _bad(sidecar: Path, what: str, value: object) -> UserError:
    return UserError(what, where=sidecar, value=value, remedy="Restore the sidecar that training wrote, or delete it")


def _too_few(every: list[Checkpoint], *, usable: int, num: int) -> UserError:
    left_out = len(every) - usable
    return UserError(
        f"too few checkpoints to average: {num} asked for, {usable} found"
        + (f" and {left_out} more without a finite validation loss" if left_out else ""),
        where=every[0].weights.parent if every else "",
        value=f"average.num={num}",
        remedy=f"Lower average.num to {usable} or train further" if usable else "Train first",
    )
