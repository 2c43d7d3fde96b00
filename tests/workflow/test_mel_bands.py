"""A model of any number of mel bands is exported and verified as it is: sizes come from the model, not from conf/."""

from pathlib import Path

import onnx
import pytest

from tests.support.folders import mel_bands, random_folder
from tests.support.generations import MODELS, project_for

BANDS = 100
FAMILIES = ["cosyvoice2", *(pytest.param(family, marks=pytest.mark.slow) for family in ("cosyvoice1", "cosyvoice3"))]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_other_mel_bands_and_speakers_is_exported_recorded_and_verified(family: str, tmp_path: Path) -> None:
    changes = mel_bands(family, BANDS) | {"spk_embed_dim: 192": "spk_embed_dim: 256"}
    folder = random_folder(family, tmp_path / "model", changes, parts=["flow", "hift"])
    result = project_for(family, tmp_path / "artifacts", folder=folder).doit("export_all", "onnx.exporter=torchscript")
    assert result.code == 0, result.out + result.err
    model = MODELS[family]
    steps = {f"verify_onnx:{model}/{name}.fp32" for name in ("flow.decoder.estimator", "hift")}
    assert steps | {f"record:{model}/flow.decoder.estimator"} <= result.steps("done")
    file = onnx.load(tmp_path / "artifacts" / model / "flow.decoder.estimator.fp32.onnx")
    inputs = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in file.graph.input}
    assert {inputs[name][1] for name in ("x", "mu", "spks", "cond")} == {BANDS}
