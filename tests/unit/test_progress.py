"""Progress is for those who look at it: that nobody can must not end the work."""

import os

import pytest

from tasks import progress


def test_progress_that_cannot_be_written_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_SECONDS", 0.0)
    with open("/dev/full", "w", buffering=1) as full:  # noqa: PTH123
        monkeypatch.setattr(progress, "_output", full)
        progress.report("a line")
        assert list(progress.progress([1, 2], label="x")) == [1, 2]
        assert os.fstat(full.fileno()).st_rdev == os.stat(os.devnull).st_rdev  # noqa: PTH116
