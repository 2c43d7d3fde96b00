"""A built project that tests change and that is put back as it was afterwards."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# One thread for each test process, there is a process for every core; before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from filelock import FileLock

from tests.support.checkpoints import write_checkpoints
from tests.support.project import GOLDEN, Project

BUILT = ("conf", "tasks", "artifacts", "model", "checkpoints", "dodo.py")


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Path]:
    """A project whose whole chain has run on the small reference folder, and a copy of it."""
    root = tmp_path_factory.mktemp("built")
    project = Project.copy_to(
        root / "project",
        "model=cosyvoice2",
        "model.dir=model",
        "model.checkpoints.flow=checkpoints",
        "average.num=3",
        "model.components.flow_encoder.formats=[torchscript]",  # a short chain; the whole is in test_cosyvoice*
        "onnx.exporter=torchscript",  # the quicker one
        "verify.trials=2",
        "verify.max_frames=60",
    )
    shutil.copytree(
        GOLDEN / "cosyvoice2",
        project.root / "model",
        ignore=shutil.ignore_patterns("golden*", "frontend*", "hift.pt", "llm.pt"),
    )
    write_checkpoints(project.root / "checkpoints", project.root / "model" / "flow.pt", losses=[3.0, 1.0, 2.0, 1.5])
    result = project.doit()
    assert result.code == 0, result.out + result.err
    shutil.copytree(project.root, root / "copy")
    return project, root / "copy"


@pytest.fixture
def built(built_once: tuple[Project, Path]) -> Iterator[Project]:
    """The built project, as it was when it had been built."""
    project, copy = built_once
    yield Project(project.root, project.settings)
    for name in BUILT:
        path, saved = project.root / name, copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.copytree(saved, path) if saved.is_dir() else shutil.copy(saved, path)


@pytest.fixture(scope="session")
def cosyvoice1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts made from the small reference folder of CosyVoice 1, both precisions, by the real command.

    Made once for all processes that run tests; nobody changes them.
    """
    own = tmp_path_factory.getbasetemp()
    root = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cosyvoice1"
    with FileLock(f"{root}.lock"):
        if not (root / "artifacts" / "log.txt").exists():
            _make_cosyvoice1(root)
    return root / "artifacts" / "cosyvoice"


def _make_cosyvoice1(root: Path) -> None:
    settings = ["model=cosyvoice", f"model.dir={GOLDEN / 'cosyvoice1'}", "precision=fp32,fp16", "tensorrt.mode=off"]
    project = Project.copy_to(root, *settings, "verify.trials=2", "verify.max_frames=40")
    result = project.doit("-n", "2")
    assert result.code == 0, result.out + result.err
    (project.artifacts / "log.txt").write_text(result.out)
