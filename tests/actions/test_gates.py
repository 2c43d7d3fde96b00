"""What verification notices: every way of damaging a file fails, and no sound file does.

Components of other families join this table when they come.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.actions.verify import compare
from tasks.pipeline.step import Step
from tests.support import damage
from tests.support.errors import error_of
from tests.support.exports import Exports
from tests.support.steps import ESTIMATOR, FAMILIES, job_of, steps_of

DAMAGES = {
    "scaled weight": damage.scale_a_weight,
    "one element": damage.change_one_element,
    "zeroed bias": damage.zero_a_bias,
    "dropped residual": damage.drop_a_residual,
    "layer in bf16": damage.compute_a_layer_in_bf16,
    "fixed axis": damage.fix_an_axis,
}
OF_COMPONENT = {
    ESTIMATOR: {"swapped inputs": damage.swap_inputs("mu", "cond"), "shorter mask": damage.shorten_mask("mask")},
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
    **dict.fromkeys(("scaled weight", "one element", "zeroed bias"), "are not those of the checkpoint"),
}


def table() -> Iterator[tuple[str, str, str, str]]:
    for family, component in COMPONENTS:
        for name in (*DAMAGES, *OF_COMPONENT[component]):
            yield family, component, "fp32", name
            if component != "hift":
                yield family, component, "fp16", name


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
