"""The artifacts of the recorded model folders, made once by the real command.

Quick, for every run of the tests: by the older exporter, which takes a third of the time, and the estimator by the
default one. Thorough: everything in every precision by the default exporter.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.made_once import made_once
from tests.support.project import GOLDEN, ROOT, Project

MODELS = {"cosyvoice1": "cosyvoice", "cosyvoice2": "cosyvoice2", "cosyvoice3": "cosyvoice3"}
SMALL_VERIFICATION = ("verify.trials=2", "verify.max_frames=40")
SMALL_VLLM_VERIFICATION = ("vllm.trials=1", "vllm.max_positions=40")  # of models with a language model for vLLM
QUICK_AND_THOROUGH: Any = ["quick", pytest.param("thorough", marks=pytest.mark.slow)]

Runs = Sequence[tuple[str, str]]  # a folder for artifacts and the words of a command

OLDER = "onnx.exporter=torchscript"
ESTIMATOR = "{model}/flow.decoder.estimator"
ESTIMATORS = f"verify_onnx:{ESTIMATOR}.fp32 verify_onnx:{ESTIMATOR}.fp16 precision=fp32,fp16"
STREAMING = f"export_onnx:{ESTIMATOR}.fp32 model.components.flow_decoder_estimator.options.streaming=true"
QUICK: Mapping[str, Runs] = {
    "cosyvoice1": [
        ("whole", f"export_all {OLDER}"),
        ("whole", f"export_jit export_onnx:{{model}}/flow.encoder.fp16 precision=fp16 {OLDER}"),
        ("estimators", ESTIMATORS),
    ],
    "cosyvoice2": [("whole", f"verify_onnx:{{model}}/hift.fp32 verify_onnx:{{model}}/flow.encoder.fp32 {OLDER}")],
    "cosyvoice3": [
        ("whole", f"export_all {OLDER}"),
        ("whole", "export_jit precision=fp16"),
        ("estimators", ESTIMATORS),
        ("streaming", f"{STREAMING} {OLDER}"),
    ],
}
EVERYTHING = "export_all precision=fp32,fp16,bf16"
THOROUGH: Mapping[str, Runs] = {
    "cosyvoice1": [("whole", EVERYTHING)],
    "cosyvoice2": [("whole", EVERYTHING)],
    "cosyvoice3": [("whole", EVERYTHING), ("streaming", STREAMING)],
}


class Generation:
    """Folders with the artifacts of one model."""

    def __init__(self, root: Path, family: str) -> None:
        self._root, self._model = root, MODELS[family]

    @property
    def whole(self) -> Path:
        """All that the model has."""
        return self._root / "whole" / self._model

    @property
    def estimators(self) -> Path:
        """Its estimators as the default exporter writes them."""
        folder = self._root / "estimators" / self._model
        return folder if folder.is_dir() else self.whole

    @property
    def streaming(self) -> Path:
        """Its estimator for streaming synthesis."""
        return self._root / "streaming" / self._model


def generation(factory: pytest.TempPathFactory, family: str, how: str) -> Generation:
    """The artifacts of a recorded folder; `how` is one of `QUICK_AND_THOROUGH`."""
    runs = {"quick": QUICK, "thorough": THOROUGH}[how][family]
    return Generation(made_once(factory, f"{family}-{how}", lambda root: _make(root, family, runs)), family)


def project_for(family: str, artifacts: Path, *, folder: Path | None = None) -> Project:
    """The checkout itself, with a model folder (the recorded one if none is given) and a folder for artifacts."""
    settings = (f"model={MODELS[family]}", f"model.dir={folder or GOLDEN / family}", f"artifacts={artifacts}")
    small = SMALL_VERIFICATION if family == "cosyvoice1" else (*SMALL_VERIFICATION, *SMALL_VLLM_VERIFICATION)
    return Project(ROOT, (*settings, *small))


def _make(root: Path, family: str, runs: Runs) -> None:
    for folder, words in runs:
        project = project_for(family, root / folder)
        result = project.doit("-n", "2", *words.format(model=MODELS[family]).split())
        assert result.code == 0, result.out + result.err
