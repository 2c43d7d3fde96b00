"""The server that forks the children is there before the first of them is needed, and only one."""

from multiprocessing import forkserver, get_all_start_methods
from pathlib import Path

import pytest

from tasks.child.launcher import run_in_child, warm_up
from tests.unit.child.test_worker import request, written

pytestmark = pytest.mark.skipif("forkserver" not in get_all_start_methods(), reason="no server here")


def server() -> int | None:
    found: int | None = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    return found


def test_a_server_that_was_warmed_up_serves_the_steps(tmp_path: Path) -> None:
    warm_up(tmp_path)
    started = server()
    assert started is not None
    assert run_in_child(written(request(tmp_path))).status == "built"
    warm_up(tmp_path)
    assert server() == started


def test_where_no_server_can_be_started_warming_up_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    warm_up(tmp_path / "file" / "below")
