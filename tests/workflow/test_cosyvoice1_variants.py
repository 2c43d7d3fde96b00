"""Folders of CosyVoice 1 with other options than the recorded one, through the real command."""

from pathlib import Path

from tests.support.folders import random_folder
from tests.support.project import GOLDEN, Project

FAMILY = "cosyvoice1"


def built(folder: Path, *words: str) -> set[str]:
    """The steps that succeed for a folder; all must."""
    settings = ("model=cosyvoice", f"model.dir={folder}", f"artifacts={folder.parent / 'artifacts'}")
    result = Project(GOLDEN.parent.parent, settings).doit(*words, "verify.trials=2", "verify.max_frames=40")
    assert result.code == 0, result.out + result.err
    return result.steps("done")


def test_encoders_with_macaron_and_convolution_are_exported(tmp_path: Path) -> None:
    changes = {"use_cnn_module: False": "cnn_module_kernel: 5", "macaron_style: False": "activation_type: gelu"}
    folder = random_folder(FAMILY, tmp_path / "model", changes, parts=["llm", "flow"])
    steps = {f"verify_jit:cosyvoice/{component}.fp32" for component in ("llm.text_encoder", "flow.encoder")}
    assert steps <= built(folder, *steps)
