"""A built project that tests change and that is put back as it was afterwards."""

import filecmp
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

# One thread for each test process, there is a process for every core; before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.support.checkpoints import write_checkpoints
from tests.support.made_once import made_once
from tests.support.project import GOLDEN, Project

# Shells start what runs in the background with SIGINT ignored, and all that is started from there would ignore it, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

SETTINGS = (
    "model=cosyvoice2",
    "model.dir=model",
    "model.checkpoints.flow=checkpoints",
    "average.num=3",
    "model.components.flow_encoder.formats=[torchscript]",  # a short chain; the whole is in test_cosyvoice*
    "onnx.exporter=torchscript",  # the quicker one
    "verify.trials=2",
    "verify.max_frames=60",
)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test uses the cache of settings of the user who runs it; those of one run share theirs."""
    own = tmp_path_factory.getbasetemp()
    os.environ["XDG_CACHE_HOME"] = str((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache")


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Path]:
    """A project whose whole chain has run on the small reference folder, and a copy of it."""
    made = made_once(tmp_path_factory, "built", _build)
    root = tmp_path_factory.mktemp("built")
    project = Project(Path(shutil.copytree(made / "project", root / "project")), SETTINGS)
    result = project.doit()  # doit's database and the memo of digests have the absolute paths of this copy from now on
    assert result.code == 0, result.out + result.err
    assert not result.steps("build")
    return project, Path(shutil.copytree(project.root, root / "copy"))


def _build(root: Path) -> None:
    project = Project.copy_to(root / "project", *SETTINGS)
    shutil.copytree(
        GOLDEN / "cosyvoice2",
        project.root / "model",
        ignore=shutil.ignore_patterns("golden*", "frontend*", "hift.pt", "llm.pt"),
    )
    write_checkpoints(project.root / "checkpoints", project.root / "model" / "flow.pt", losses=[3.0, 1.0, 2.0, 1.5])
    result = project.doit()
    assert result.code == 0, result.out + result.err


@pytest.fixture
def built(built_once: tuple[Project, Path]) -> Iterator[Project]:
    """The built project, as it was when it had been built."""
    project, copy = built_once
    yield Project(project.root, project.settings)
    restore(project.root, copy)


def restore(root: Path, copy: Path) -> None:
    """Only what differs, so that the digests of all other files stay remembered."""
    there, wanted = ({path.relative_to(top) for path in top.rglob("*") if path.is_file()} for top in (root, copy))
    for name in there - wanted:
        (root / name).unlink()
    for name in wanted:
        if name not in there or not filecmp.cmp(root / name, copy / name, shallow=False):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(copy / name, root / name)
