"""What .ci/run makes of the exit codes of pytest and of the linters, with stubs in their places."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.project import ROOT

PYTEST = f"""#!{sys.executable}
import json, pathlib, sys
calls = pathlib.Path(__file__).with_name("calls")
calls.open("a").write(" ".join(sys.argv[1:]) + "\\n")
runs = json.loads(pathlib.Path(__file__).with_name("runs.json").read_text())
code, failed = runs[len(calls.read_text().splitlines()) - 1]
cache = pathlib.Path(".pytest_cache/v/cache")
cache.mkdir(parents=True, exist_ok=True)
(cache / "lastfailed").write_text(json.dumps(dict.fromkeys(failed, True)))
sys.exit(code)
"""
STUBS = {
    "python3": "#!/bin/sh\nmkdir -p .venv/bin && touch .venv/bin/activate\n",
    "pip": "#!/bin/sh\n",
    "ruff": "#!/bin/sh\n",
    "mypy": "#!/bin/sh\necho types\n",
    "pytest": PYTEST,
}


class Ended(NamedTuple):
    code: int
    lines: list[str]
    calls: list[str]


def ci(folder: Path, *runs: tuple[int, list[str]], slow: bool = False, **stubs: str) -> Ended:
    """Run .ci/run where each call of pytest ends with the next of `runs`: an exit code and the tests that failed."""
    programs, checkout = folder / "bin", folder / "checkout"
    programs.mkdir()
    for name, text in (STUBS | stubs).items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    (programs / "calls").touch()
    (programs / "runs.json").write_text(json.dumps(runs))
    shutil.copytree(ROOT / ".ci", checkout / ".ci")
    (folder / "scratch").mkdir()
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(folder / "scratch")}
    done = subprocess.run(
        [checkout / ".ci" / "run"],
        env=environment | ({"VOXKILN_SLOW": "1"} if slow else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert {path.name for path in checkout.iterdir()} == {".ci"}
    assert not list((folder / "scratch").iterdir())
    return Ended(done.returncode, done.stdout.splitlines(), (programs / "calls").read_text().splitlines())


def test_a_run_without_failures_runs_the_tests_once_and_then_the_linters(tmp_path: Path) -> None:
    ended = ci(tmp_path, (0, []))
    assert (ended.code, ended.calls, ended.lines[-1]) == (0, [""], "types")


def test_what_passes_alone_is_listed_at_the_end_and_does_not_fail_the_run(tmp_path: Path) -> None:
    ended = ci(tmp_path, (1, ["a.py::one", "a.py::two"]), (0, []))
    assert ended.code == 0
    assert ended.calls == ["", "--last-failed --last-failed-no-failures none -n 0"]
    assert ended.lines[-2:] == ["a.py::one", "a.py::two"]
    assert "types" in ended.lines


def test_what_fails_again_fails_the_run_and_is_not_listed_as_flaky(tmp_path: Path) -> None:
    ended = ci(tmp_path, (1, ["a.py::one", "a.py::two"]), (1, ["a.py::two"]))
    assert ended.code == 1
    assert ended.lines[-1] == "a.py::one"
    assert "a.py::two" not in ended.lines


@pytest.mark.parametrize("code", [2, 3, 4, 5])
def test_a_run_that_ended_for_another_reason_than_a_failed_test_fails(tmp_path: Path, code: int) -> None:
    ended = ci(tmp_path, (code, ["a.py::one"]))
    assert (ended.code, ended.calls) == (code, [""])


def test_a_second_run_that_collects_nothing_fails(tmp_path: Path) -> None:
    assert ci(tmp_path, (1, ["a.py::one"]), (5, ["a.py::one"])).code == 5


def test_slow_tests_run_after_the_others_when_they_are_asked_for(tmp_path: Path) -> None:
    again = "--last-failed --last-failed-no-failures none -n 0"
    ended = ci(tmp_path, (1, ["one"]), (0, []), (1, ["slow"]), (0, []), slow=True)
    assert ended.calls == ["", again, "-m slow", f"{again} -m slow"]
    assert (ended.code, ended.lines[-2:]) == (0, ["one", "slow"])


@pytest.mark.parametrize("linter", ["ruff", "mypy"])
def test_a_linters_complaint_fails_the_run_and_flaky_tests_are_listed_all_the_same(tmp_path: Path, linter: str) -> None:
    ended = ci(tmp_path, (1, ["one"]), (0, []), **{linter: "#!/bin/sh\nexit 1\n"})
    assert (ended.code, ended.lines[-1]) == (1, "one")


def test_a_failed_installation_fails_the_run_before_any_test(tmp_path: Path) -> None:
    ended = ci(tmp_path, pip="#!/bin/sh\nexit 1\n")
    assert (ended.code, ended.calls) == (1, [])
