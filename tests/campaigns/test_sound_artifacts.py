"""Sound files never fail: other dimensions than those on which the limits were chosen, and weights that have grown."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tasks.actions.export_onnx import action
from tasks.actions.export_torchscript import action as torchscript
from tasks.actions.verify import compare
from tasks.errors import UserError
from tests.support.folders import random_folder
from tests.support.steps import ESTIMATOR, FAMILIES, job_of, steps_of

pytestmark = pytest.mark.slow

GROWTH = 8.0
UNET_1, UNET_2 = "channels: [32, 32]", "channels: [32]"
# Changes of the recorded folders' YAML; each is made wherever the text is.
DIMENSIONS: dict[str, list[dict[str, str]]] = {
    "cosyvoice1": [
        {
            UNET_1: "channels: [64, 64]",
            "attention_head_dim: 8": "attention_head_dim: 16",
            "num_mid_blocks: 1": "num_mid_blocks: 3",
            "base_channels: 32": "base_channels: 64",
            "linear_units: 80": "linear_units: 200",
            "num_blocks: 2": "num_blocks: 4",
        },
        {
            UNET_1: "channels: [128, 128]",
            "n_blocks: 1": "n_blocks: 2",
            "num_heads: 4": "num_heads: 2",
            "base_channels: 32": "base_channels: 128",
            "attention_heads: 4": "attention_heads: 2",
        },
        {
            UNET_1: "channels: [48, 48]",
            "attention_head_dim: 8": "attention_head_dim: 24",
            "base_channels: 32": "base_channels: 16",
            "nb_harmonics: 8": "nb_harmonics: 4",
            "attention_heads: 4": "attention_heads: 8",
        },
    ],
    "cosyvoice2": [
        {
            UNET_2: "channels: [64]",
            "attention_head_dim: 8": "attention_head_dim: 16",
            "num_mid_blocks: 1": "num_mid_blocks: 3",
            "base_channels: 32": "base_channels: 64",
            "linear_units: 80": "linear_units: 200",
            "num_blocks: 2": "num_blocks: 4",
        },
        {
            UNET_2: "channels: [128]",
            "n_blocks: 1": "n_blocks: 2",
            "num_heads: 4": "num_heads: 2",
            "base_channels: 32": "base_channels: 128",
            "attention_heads: 4": "attention_heads: 2",
        },
        {
            UNET_2: "channels: [48]",
            "attention_head_dim: 8": "attention_head_dim: 24",
            "base_channels: 32": "base_channels: 16",
            "nb_harmonics: 8": "nb_harmonics: 4",
            "attention_heads: 4": "attention_heads: 8",
        },
    ],
    "cosyvoice3": [
        {
            "dim: 64": "dim: 128",
            "depth: 2": "depth: 4",
            "dim_head: 16": "dim_head: 32",
            "base_channels: 32": "base_channels: 64",
        },
        {
            "depth: 2": "depth: 6",
            "ff_mult: 2": "ff_mult: 4",
            "base_channels: 32": "base_channels: 128",
        },
        {
            "heads: 4": "heads: 8",
            "base_channels: 32": "base_channels: 16",
            "nb_harmonics: 8": "nb_harmonics: 4",
        },
    ],
}
COMPONENTS = {
    "cosyvoice1": (ESTIMATOR, "hift", "flow.encoder"),
    "cosyvoice2": (ESTIMATOR, "hift", "flow.encoder"),
    "cosyvoice3": (ESTIMATOR, "hift"),
}


def cases() -> Iterator[tuple[str, int, str]]:
    for family in FAMILIES:
        for component in COMPONENTS[family]:
            yield from ((family, number, component) for number in range(len(DIMENSIONS[family]) + 1))


def folder_of(family: str, number: int, root: Path) -> Path:
    """The folder with the dimensions of this number, and one more with grown weights."""
    sets = DIMENSIONS[family]
    grown = number == len(sets)
    folder = random_folder(family, root, {} if grown else sets[number], parts=["flow", "hift"])
    for part in ("flow", "hift") if grown else ():
        state = torch.load(folder / f"{part}.pt", weights_only=True)
        torch.save({n: GROWTH * t if t.dim() > 1 else t for n, t in state.items()}, folder / f"{part}.pt")
    return folder


def verdict(family: str, component: str, folder: Path, *, stage: str, precision: str, root: Path) -> str:
    """The worst margin of the verification of a fresh export, or why it failed."""
    words = (f"precision={precision}", "verify.device=cpu", "verify.real_inputs=false", "verify.max_frames=300")
    steps = steps_of(family, component, *words, "onnx.exporter=torchscript", folder=folder, artifacts=root)
    export, verify = steps[f"export_{stage}"], steps[f"verify_{stage}"]
    (role,) = export.outputs
    job = job_of(export, outputs={role: root / f"{stage}.{precision}"})
    (torchscript if stage == "jit" else action).run(job)
    check = job_of(
        verify, inputs={"artifact": job.outputs[role]}, outputs={"report": root / f"{stage}.{precision}.json"}
    )
    try:
        facts = compare.run(check)
        return "; ".join([f"{facts['margin_db']:.1f}", *facts["remarks"]])
    except UserError as error:
        return f"FAIL {error.what}: {error.value}"


@pytest.mark.parametrize(("family", "number", "component"), cases())
def test_sound_files_of_other_dimensions_and_grown_weights_pass(
    family: str, number: int, component: str, tmp_path: Path
) -> None:
    folder = folder_of(family, number, tmp_path / "model")
    precisions = ("fp32",) if component == "hift" else ("fp32", "fp16", "bf16")
    stages = ("jit",) if component == "flow.encoder" else ("onnx",)
    found = {
        f"{stage}.{precision}": verdict(family, component, folder, stage=stage, precision=precision, root=tmp_path)
        for stage in stages
        for precision in precisions
    }
    print(f"\nsound {family} {number} {component}: {found}")
    assert not [text for text in found.values() if text.startswith("FAIL")], found
