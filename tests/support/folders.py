"""The recorded model folders, and copies of them with one thing broken."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.models.cosyvoice.folder import build_part
from tasks.settings.component import ComponentSpec
from tests.support.golden_cases import GOLDEN

YAML = {"cosyvoice1": "cosyvoice.yaml", "cosyvoice2": "cosyvoice2.yaml", "cosyvoice3": "cosyvoice3.yaml"}


def config_of(family: str) -> Path:
    return GOLDEN / family / YAML[family]


def weights_of(family: str, part: str = "flow") -> Path:
    return GOLDEN / family / f"{part}.pt"


def component(name: str) -> ComponentSpec:
    """As much of a component's declaration as its loader needs."""
    return ComponentSpec(name=name, part=name.split(".", maxsplit=1)[0])


def changed_weights(family: str, folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """A copy of flow.pt after ``change`` has worked on its state dict."""
    state = torch.load(weights_of(family), weights_only=True)
    change(state)
    torch.save(state, folder / "flow.pt")
    return folder / "flow.pt"


def changed_config(family: str, folder: Path, old: str, new: str) -> Path:
    """A copy of the model YAML with the first ``old`` replaced."""
    text = config_of(family).read_text(encoding="utf-8")
    assert old in text
    path = folder / YAML[family]
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def random_folder(family: str, folder: Path, changes: dict[str, str], *, parts: Sequence[str]) -> Path:
    """A model folder with random weights whose YAML has every ``old`` replaced by its ``new``."""
    text = config_of(family).read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / YAML[family]).write_text(text, encoding="utf-8")
    torch.manual_seed(0)
    for part in parts:
        torch.save(build_part(part, config=folder / YAML[family]).state_dict(), folder / f"{part}.pt")
    return folder


def mel_bands(family: str, count: int) -> dict[str, str]:
    """Changes for `random_folder`: another number of mel bands wherever the YAML has 80 of them."""
    sizes = {"in_channels: 80": 1, "out_channels: 80": 1, "output_size: 80": 1, "spk_emb_dim: 80": 1, "num_mels: 80": 1}
    sizes |= {"in_channels: 240": 3, "in_channels: 320": 4}
    sizes |= {"        channels: 80": 1, "    input_size: 80": 1, "mel_dim: 80": 1, "mu_dim: 80": 1, "spk_dim: 80": 1}
    text = config_of(family).read_text(encoding="utf-8")
    return {old: f"{old.partition(':')[0]}: {times * count}" for old, times in sizes.items() if old in text}


def copied_weights(family: str, folder: Path) -> Path:
    return Path(shutil.copy(weights_of(family), folder / "flow.pt"))
