"""Collects the sentences that users read, for the one snapshot that holds them: tests/golden/messages.txt.

python -m tests.support.messages        # writes it again after a change of wording; read the diff
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from tasks.checkpoints import gather, select, survey
from tasks.child.disk import disk_message
from tasks.errors import UserError
from tasks.freshness.receipt import Ingredients, changes
from tasks.pipeline.graph import build, merge
from tasks.pipeline.graph_inputs import GraphInputs, Machine
from tasks.pipeline.stages.table import STAGES
from tasks.settings.compose import load

FILE = Path(__file__).parents[1] / "golden" / "messages.txt"
WORKDIR = Path("/w")
NO_PLANS = Machine(
    build_obstacle=("no NVIDIA GPU on this machine", "Run this step on the GPU that will serve the plan"),
    runtime_obstacle=("no NVIDIA GPU on this machine", "Run this step on the GPU that will serve the plan"),
    transformers=False,
)
ESTIMATOR = "model.components.flow_decoder_estimator"
SETTINGS = (
    "a=[1",
    "=3",
    "verify.trials=glob(*)",
    "model=cosyvoice22",
    "onnx.opsett=17",
    "onnx.opset=abc",
    "onnx.opset=99",
    "onnx={exporter: dynamo, opset: 17}",
    "precision=fp17",
    "precision.name=fp16",
    "hydra.run.dir=x",
    "average.num=0",
    "train.lr=-1",
    "verify.atol=inf",
    "model.name=../elsewhere",
    "model.checkpoints.flo=/data/flow",
    "model.axes.frames.min=600",
    "model.axes.batch.max=33",
    "tensorrt.profile.framez=[1,2,3]",
    "tensorrt.profile.frames=[4,3]",
    f"{ESTIMATOR}.inputs.x.kind=nrmal",
    f"{ESTIMATOR}.inputs.x.dtype=int64",
    f"{ESTIMATOR}.inputs.x={{shape: [batch, frames], kind: integers}}",
    f"{ESTIMATOR}.inputs.x={{shape: [batch, frames], kind: integers, low: 9, high: 3}}",
    f"{ESTIMATOR}.inputs.x.shape=[batch,80,framez]",
    f"{ESTIMATOR}.loader=tasks.models.cosyvoice.folder:load_componnt",
    f"{ESTIMATOR}.loader=tasks.models.cosyvoice.folder",
)

SIDECARS = ("epoch: 1\n", "epoch: one\nstep: 1\n", "[1, 2]\n", "epoch: 1\nstep: 1\nloss_dict: x\n", "{")


def messages() -> str:
    """Every message under a heading that names what led to it; no paths of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [
            line for part in (_settings(), _skips(), _sweeps(), _reasons(), _checkpoints(Path(folder))) for line in part
        ]
        return "\n".join(lines).replace(folder, "DIR") + "\n"


def _raised(call: Callable[[], object]) -> str:
    try:
        call()
    except UserError as error:
        return str(error)
    raise AssertionError("nothing was refused")


def _settings() -> Iterator[str]:
    for word in SETTINGS:
        yield f"[{word}]\n{_raised(lambda word=word: load([word], workdir=WORKDIR))}\n"  # type: ignore[misc]


def _skips() -> Iterator[str]:
    (config,) = load(["model=cosyvoice2", "model.dir=/m", "precision=fp16"], workdir=WORKDIR)
    steps = build(GraphInputs(config, NO_PLANS, {}, ("flow",)), STAGES)
    (off,) = load(["tensorrt.mode=off"], workdir=WORKDIR)
    skipped = {step.skip.text: step for step in (*steps, *build(GraphInputs(off, NO_PLANS, {}), STAGES)) if step.skip}
    for text, step in skipped.items():
        yield f"[skip {step.task}]\n{text}.\n"


def _sweeps() -> Iterator[str]:
    graphs = [build(GraphInputs(one, NO_PLANS, {}), STAGES) for one in load(["onnx.opset=17,18"], workdir=WORKDIR)]
    yield f"[onnx.opset=17,18]\n{_raised(lambda: merge(graphs))}\n"


def _reasons() -> Iterator[str]:
    old = Ingredients("a:run", {"onnx": {"opset": 18}}, {"weights": "0" * 64}, {"torch": "2.12"}, {"a": "1", "b": "1"})
    new = Ingredients("b:run", {"onnx": {"opset": 17}}, {"weights": "1" * 64, "x": ""}, {"torch": "2.13"}, {"a": "2"})
    yield "[reasons]\n" + "\n".join(changes(old, new)) + "\n"
    yield (
        "[an input that is no longer used]\n"
        + "\n".join(changes(new, replace(new, inputs={"weights": "1" * 64})))
        + "\n"
    )


def _checkpoints(folder: Path) -> Iterator[str]:
    yield f"[a folder of checkpoints that does not exist]\n{_raised(lambda: survey(folder / 'none'))}\n"
    yield f"[an empty folder of checkpoints]\n{_raised(lambda: survey(folder))}\n"
    sidecar = folder / "epoch_1_whole.yaml"
    for content in SIDECARS:
        sidecar.write_text(content)
        files = {path.name: path for path in (sidecar, sidecar.with_suffix(".pt"))}
        yield f"[a sidecar {content!r}]\n{_raised(lambda files=files: gather(files))}\n"  # type: ignore[misc]
    yield f"[too few checkpoints]\n{_raised(lambda: select([], num=3, val_best=True))}\n"
    yield f"[a disk that is full]\n{disk_message(folder, 'No space left on device').partition(' (')[0]}\n"


if __name__ == "__main__":
    FILE.write_text(messages(), encoding="utf-8")
