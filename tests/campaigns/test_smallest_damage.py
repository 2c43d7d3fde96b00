"""The smallest damage that each gate of a verification notices, for every component: printed, and bounded.

The comparison of weights notices much less; here the outputs are looked at alone.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.actions.verify import compare
from tasks.errors import UserError
from tests.support import damage
from tests.support.exports import Exports
from tests.support.steps import ESTIMATOR, FAMILIES, job_of, steps_of

pytestmark = pytest.mark.slow

SCALES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # relative changes of one weight in the middle of the graph
# What outputs must show: 10 times the noise of a format at the least, wherever the weight is in the graph.
BOUNDS = {"fp32": 1e-2, "fp16": 1.0, "bf16": 1.0}
LEAST = {"fp32": 1e-6, "fp16": 1e-3, "bf16": 1e-2}  # what is less rounds to the same numbers


def cases() -> Iterator[tuple[str, str, str]]:
    for family in FAMILIES:
        yield from ((family, ESTIMATOR, precision) for precision in BOUNDS)
        yield family, "hift", "fp32"


def is_noticed(exports: Exports, root: Path, case: tuple[str, str, str], *, by: float, weights: bool) -> bool:
    family, component, precision = case
    words = (f"precision={precision}", "onnx.exporter=torchscript", "verify.device=cpu", "verify.real_inputs=false")
    steps = steps_of(family, component, *words, "verify.trials=4", "verify.max_frames=40")
    sound = exports(job_of(steps["export_onnx"], outputs={"onnx": root / "sound.onnx"}))
    broken = damage.damaged(sound, damage.scale_by(1 + by), root / "broken.onnx")
    check = steps["verify_onnx"]
    params = {} if weights else {"contents": ""}
    job = job_of(check, inputs={"artifact": broken}, outputs={"report": root / "report.json"}, params=params)
    try:
        compare.run(job)
    except UserError:
        return True
    return False


@pytest.mark.parametrize("case", cases(), ids="-".join)
def test_the_smallest_change_of_a_weight_that_outputs_show(
    exports: Exports, tmp_path: Path, case: tuple[str, str, str]
) -> None:
    scales = [by for by in SCALES if by >= LEAST[case[2]]]
    noticed = [by for by in scales if is_noticed(exports, tmp_path, case, by=by, weights=False)]
    print(f"\nsmallest damage {' '.join(case)}: a weight scaled by 1 + {min(noticed, default=None)}")
    assert noticed
    assert min(noticed) <= BOUNDS[case[2]]
    assert noticed == [by for by in scales if by >= min(noticed)]
    assert is_noticed(exports, tmp_path, case, by=1e-2, weights=True)
