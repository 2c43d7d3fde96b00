"""What verification notices: every way of damaging a file fails, and no sound file does.

Components of other families join this table when they come.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor

from tasks.actions.export_torchscript import action as export_torchscript
from tasks.actions.verify import compare
from tasks.pipeline.step import Step
from tests.support import damage
from tests.support.errors import error_of
from tests.support.exports import Exports
from tests.support.folders import changed_weights
from tests.support.steps import ESTIMATOR, FAMILIES, all_steps_of, job_of, steps_of

DAMAGES = {
    "scaled weight": damage.scale_a_weight,
    "one element": damage.change_one_element,
    "zeroed bias": damage.zero_a_bias,
    "dropped residual": damage.drop_a_residual,
    "layer in bf16": damage.compute_a_layer_in_bf16,
    "fixed axis": damage.fix_an_axis,
    "another copy": damage.read_a_damaged_copy,
    "two copies": damage.add_a_damaged_copy,
    "int8 weight": damage.quantize_a_weight,
    "renamed output": damage.rename_an_output,
    "wider output": damage.widen_an_output,
}
OF_COMPONENT = {
    ESTIMATOR: {
        "time in integers": damage.take_in_integers("t"),
        "swapped inputs": damage.swap_inputs("mu", "cond"),
        "shorter mask": damage.shorten_mask("mask"),
    },
    "flow.encoder": {"shorter lengths": damage.shorten_lengths("xs_lens")},
    "hift": {},
}
COMPONENTS = [
    (family, component)
    for family in FAMILIES
    for component in OF_COMPONENT
    if (family, component) != ("cosyvoice3", "flow.encoder")  # it has none
]
NOTICED = {
    "fixed axis": "fixes an axis",
    "layer in bf16": "computes in a format other than",
    "int8 weight": "computes in a format other than",
    "time in integers": "takes inputs in another format",
    "renamed output": "outputs are not",
    "wider output": "returns outputs in another format",
    **dict.fromkeys(
        ("scaled weight", "one element", "zeroed bias", "another copy", "two copies"),
        "are not those of the checkpoint",
    ),
}


OF_TORCHSCRIPT = [
    ("cosyvoice1", "flow.encoder"),
    ("cosyvoice1", "llm.text_encoder"),
    ("cosyvoice1", "llm.llm"),
    ("cosyvoice2", "flow.encoder"),
    ("cosyvoice3", "flow.pre_lookahead_layer"),
]
# Loaders of tests.support.damaged_modules: one element, and so on.
IN_MODULES = ("scaled_weight", "one_element", "zeroed_bias", "dropped_residual", "layer_in_bf16", "shorter_lengths")


def table() -> Iterator[tuple[str, str, str, str]]:
    for family, component in COMPONENTS:
        for name in (*DAMAGES, *OF_COMPONENT[component]):
            yield family, component, "fp32", name
            if component != "hift":
                yield family, component, "fp16", name


def table_of_torchscript() -> Iterator[tuple[str, str, str, str]]:
    for family, component in OF_TORCHSCRIPT:
        for name in IN_MODULES:
            if (component, name) != ("flow.pre_lookahead_layer", "shorter_lengths"):  # it takes no lengths
                yield from ((family, component, precision, name) for precision in ("fp32", "fp16"))


def steps(family: str, component: str, precision: str) -> dict[str, Step]:
    words = [f"precision={precision}", "onnx.exporter=torchscript", "verify.device=cpu", "verify.real_inputs=false"]
    return steps_of(family, component, *words, "verify.trials=4", "verify.max_frames=40")


@pytest.mark.parametrize("case", table(), ids="-".join)
def test_a_damaged_file_fails(exports: Exports, tmp_path: Path, case: tuple[str, str, str, str]) -> None:
    family, component, precision, name = case
    found = steps(family, component, precision)
    sound = exports(job_of(found["export_onnx"], outputs={"onnx": tmp_path / "sound.onnx"}))
    broken = damage.damaged(sound, (DAMAGES | OF_COMPONENT[component])[name], tmp_path / "broken.onnx")
    job = job_of(found["verify_onnx"], inputs={"artifact": broken}, outputs={"report": tmp_path / "report.json"})
    assert NOTICED.get(name, "differs from the original module") in error_of(compare.run, job).what


@pytest.mark.parametrize("case", table_of_torchscript(), ids="-".join)
def test_a_torchscript_file_of_a_damaged_module_fails(tmp_path: Path, case: tuple[str, str, str, str]) -> None:
    family, component, precision, name = case
    found = steps(family, component, precision)
    export, broken, report = found["export_jit"], tmp_path / "broken.zip", tmp_path / "report.json"
    loader = {"loader": f"tests.support.damaged_modules:{name}"}
    params = {"component": {**export.params["component"], **loader}}
    export_torchscript.run(job_of(export, outputs={"torchscript": broken}, params=params))
    job = job_of(found["verify_jit"], inputs={"artifact": broken}, outputs={"report": report})
    noticed = NOTICED.get(name.replace("_", " "), "differs from the original module")
    assert noticed in error_of(compare.run, job).what


def test_every_component_is_in_a_table() -> None:
    exported = {
        (family, step.params["component"]["name"], step.stage)
        for family in FAMILIES
        for step in all_steps_of(family).values()
        if step.stage in {"export_jit", "export_onnx"}
    }
    onnx = {(family, component, "export_onnx") for family, component, _, _ in table()}
    assert exported == onnx | {(family, component, "export_jit") for family, component, _, _ in table_of_torchscript()}


def change_a_bias(state: dict[str, Tensor]) -> None:
    state["encoder.encoders.1.self_attn.linear_q.bias"][3] *= 1.02


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("family", ["cosyvoice1", "cosyvoice2"])
def test_a_torchscript_file_with_one_other_element_of_a_bias_fails(tmp_path: Path, family: str, precision: str) -> None:
    found = steps(family, "flow.encoder", precision)
    weights = changed_weights(family, tmp_path, change_a_bias)
    other, report = tmp_path / "other.zip", tmp_path / "report.json"
    export_torchscript.run(job_of(found["export_jit"], inputs={"weights": weights}, outputs={"torchscript": other}))
    error = error_of(compare.run, job_of(found["verify_jit"], inputs={"artifact": other}, outputs={"report": report}))
    assert "are not those of the checkpoint" in error.what
    assert "linear_q.bias: 1 of 48 elements of" in str(error.value)
