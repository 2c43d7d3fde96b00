"""An installed package works without its checkout: the `voxkiln` command, and dodo.py from any folder."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.project import ROOT

QUICK = ("train.max_epoch=1", "average.num=1", "train.steps_per_epoch=1", "train.validation_batches=1")


def run(command: list[str], *, folder: Path, installed: Path) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def voxkiln(*words: str, folder: Path, installed: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from tasks.workflow.command import main; raise SystemExit(main())", *words]
    return run(command, folder=folder, installed=installed)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The files of the package as a wheel has them: pyproject.toml puts conf/ inside the package."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    folder = tmp_path / "site-packages"
    ignore = shutil.ignore_patterns("__pycache__")
    for package in wheel["packages"]:
        shutil.copytree(ROOT / package, folder / package, ignore=ignore)
    for source, place in wheel["force-include"].items():
        shutil.copytree(ROOT / source, folder / place)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def test_the_command_runs_in_any_folder_and_writes_its_artifacts_there(installed: Path, elsewhere: Path) -> None:
    done = voxkiln("export_jit", *QUICK, folder=elsewhere, installed=installed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (elsewhere / "artifacts/demo/flow.encoder.fp32.zip").is_file()
    again = voxkiln("export_jit", *QUICK, folder=elsewhere, installed=installed)
    assert [line.split()[0] for line in again.stdout.splitlines()[:3]] == ["fresh"] * 3


def test_its_settings_are_refused_as_those_of_doit_are(installed: Path, elsewhere: Path) -> None:
    done = voxkiln("list", "onnx.opest=17", folder=elsewhere, installed=installed)
    assert done.returncode == 3
    assert "onnx.opset" in done.stdout + done.stderr


def test_dodo_runs_from_another_folder(elsewhere: Path, tmp_path: Path) -> None:
    artifacts = f"artifacts={tmp_path / 'a'}"
    command = [sys.executable, "-m", "doit", "-f", str(ROOT / "dodo.py"), "why", artifacts]
    done = run(command, folder=elsewhere, installed=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stale   train:demo/flow" in done.stdout


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package_and_the_settings(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {path.relative_to(ROOT).as_posix() for path in ROOT.glob("tasks/**/*.py")} <= names
    assert {f"tasks/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob("conf/**/*.yaml")} <= names
