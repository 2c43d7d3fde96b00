"""The socket of the server that forks the children: in any folder, and gone however the run ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import HANGS_AFTER_SECONDS, ROOT

RUN = """
import multiprocessing, os, sys
from pathlib import Path
from tasks.child.sockets import keep_sockets_in

keep_sockets_in(Path(sys.argv[1]))
child = multiprocessing.get_context("forkserver").Process(target=print, args=("the child ran",))
child.start()
child.join()
if sys.argv[2] == "killed":
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Ours and the temporary one, both with paths longer than that of a socket can be."""
    state, temporary = tmp_path / ("s" * 150), tmp_path / ("t" * 150)
    temporary.mkdir()
    return state, temporary


def run(folders: tuple[Path, Path], end: str) -> None:
    state, temporary = folders
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(state), end],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS_AFTER_SECONDS,
    )
    assert done.stdout == "the child ran\n", done.stderr


def test_a_run_leaves_no_socket(folders: tuple[Path, Path]) -> None:
    run(folders, "ended")
    assert not [*(folders[0] / "sockets").iterdir(), *folders[1].iterdir()]


def test_what_a_killed_run_leaves_is_not_in_the_temporary_folder_and_goes_with_the_next_run(
    folders: tuple[Path, Path],
) -> None:
    run(folders, "killed")
    assert not list(folders[1].iterdir())
    run(folders, "ended")
    assert not list((folders[0] / "sockets").iterdir())
