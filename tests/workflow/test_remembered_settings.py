"""What Hydra composed is remembered between commands, and nobody notices but for the time."""

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.settings.remembered import SETTLED_SECONDS
from tests.support.project import Project, Result

COMPOSING = {"hydra", "omegaconf", "antlr4"}


def settle(project: Project) -> None:
    """Wait until no file of the project counts as changed just now."""
    files = [path for name in ("conf", "tasks") for path in (project.root / name).rglob("*")]
    newest = max(path.stat().st_ctime for path in files)
    time.sleep(max(0.0, newest + SETTLED_SECONDS + 0.2 - time.time()))


def imported(project: Project, *words: str) -> tuple[Result, set[str]]:
    """A command and the packages that its process has imported."""
    result = replace(project, environment=project.environment | {"PYTHONPROFILEIMPORTTIME": "1"}).doit(*words)
    return result, set(re.findall(r"^import time:.*\| +(\w+)", result.err, re.MULTILINE))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project.copy_to(tmp_path / "project")
    project.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    settle(project)
    return project


def entries(project: Project) -> list[Path]:
    folder = Path(project.environment["XDG_CACHE_HOME"], "voxkiln", "settings")
    return sorted(folder.iterdir()) if folder.is_dir() else []


def setting(project: Project, pattern: str, *words: str) -> str:
    result = project.doit("settings", *words)
    assert (result.code, result.err) == (0, "")
    return re.findall(pattern, result.out)[0]


def test_a_run_with_nothing_to_do_imports_nothing_that_composes(built: Project) -> None:
    settle(built)
    first = built.doit()
    assert not first.steps("build")
    second, packages = imported(built)
    assert not COMPOSING & packages
    assert "tasks" in packages
    assert second.steps("fresh") == first.steps("fresh")


@pytest.mark.parametrize("command", [["list", "--all"], ["why"], ["info", "export_all"]])
def test_commands_that_only_report_import_nothing_that_composes(built: Project, command: list[str]) -> None:
    settle(built)
    first = built.doit(*command)
    second, packages = imported(built, *command)
    assert not COMPOSING & packages
    assert (second.code, second.out) == (first.code, first.out)


def test_the_model_of_a_folder_is_found_without_hydra_and_yaml(built: Project) -> None:
    settle(built)
    settings = tuple(word for word in built.settings if not word.startswith(("model=", "model.checkpoints")))
    project = replace(built, settings=settings)
    first = project.doit("list", "--all")
    assert "export_onnx:cosyvoice2/" in first.out
    second, packages = imported(project, "list", "--all")
    assert not (COMPOSING | {"yaml"}) & packages
    assert second.out == first.out
    shutil.rmtree(project.root / "model")
    assert "no such folder" in project.doit("list").err


def test_an_edit_of_conf_is_noticed_by_the_next_command(project: Project) -> None:
    assert setting(project, r"trials: (\d+)") == setting(project, r"trials: (\d+)") == "10"
    assert entries(project)
    project.edit("conf/verify/fp32.yaml", "max_noise: 10", "max_noise: 10\ntrials: 12")
    assert setting(project, r"trials: (\d+)") == "12"


def test_an_edit_of_the_schema_is_noticed_by_the_next_command(project: Project) -> None:
    assert setting(project, r"opset: (\d+)") == setting(project, r"opset: (\d+)") == "18"
    project.edit("tasks/settings/schema.py", "within(18,", "within(19,")
    assert setting(project, r"opset: (\d+)") == "19"


def test_a_rule_that_was_added_is_noticed_by_the_next_command(project: Project) -> None:
    assert project.doit("list").code == project.doit("list").code == 0
    line = "    model = config.model\n"
    project.edit("tasks/settings/validation.py", line, f"{line}    yield 'a problem'\n")
    assert project.doit("list").code == project.doit("list").code == 3


def test_a_model_of_ones_own_and_its_edit_are_noticed(project: Project) -> None:
    own = project.root / "conf/model/mine.yaml"
    assert project.doit("list", "model=mine").code == 3
    own.write_text("defaults: [demo, _self_]\nname: mine\n")
    assert setting(project, "name: (.*)", "model=mine") == "mine"
    settle(project)
    assert setting(project, "name: (.*)", "model=mine") == "mine"
    assert entries(project)
    own.write_text("defaults: [demo, _self_]\nname: other\n")
    assert setting(project, "name: (.*)", "model=mine") == "other"
    own.unlink()
    assert project.doit("list", "model=mine").code == 3


def test_two_checkouts_share_nothing(project: Project, tmp_path: Path) -> None:
    other = Project(Path(shutil.copytree(project.root, tmp_path / "other")), environment=project.environment)
    settle(other)
    for one in (project, other, project, other):
        assert setting(one, "artifacts: (.*)") == str(one.root / "artifacts")
        assert setting(one, r"config: (.*)").startswith(str(one.root))


def test_an_environment_variable_in_a_setting_is_looked_up_each_time(project: Project) -> None:
    word = "artifacts=${oc.env:KILN_ARTIFACTS}"
    for folder in ("one", "one", "two", "one"):
        project.environment["KILN_ARTIFACTS"] = str(project.root / folder)
        assert setting(project, "artifacts: (.*)", word) == str(project.root / folder)


def test_problems_are_reported_each_time_in_the_same_words(project: Project) -> None:
    words = ("list", "onnx.opset=99", "model=cosyvoice2", f"model.dir={'x' * 300}")
    first, second = project.doit(*words), project.doit(*words)
    assert (first.code, first.err) == (second.code, second.err)
    assert first.code == 3
    assert not entries(project)


def test_the_home_folder_is_looked_up_each_time(project: Project, tmp_path: Path) -> None:
    for home in ("one", "one", "two"):
        project.environment["HOME"] = str(tmp_path / home)
        assert setting(project, "artifacts: (.*)", "artifacts=~/artifacts") == str(tmp_path / home / "artifacts")
    assert len(entries(project)) == 1


@pytest.mark.parametrize(
    "spoil", [lambda text: text[:100], lambda text: text.replace("18", "17"), lambda _: "[" * 9999]
)
def test_a_damaged_entry_is_made_anew(project: Project, spoil: Callable[[str], str]) -> None:
    assert setting(project, r"opset: (\d+)") == "18"
    (entry,) = entries(project)
    whole = entry.read_text()
    entry.write_text(spoil(whole))
    assert setting(project, r"opset: (\d+)") == "18"
    assert entry.read_text() == whole


@pytest.mark.parametrize("place", ["/dev/null", "/proc", "relative"])
def test_without_a_usable_place_it_goes_on_in_silence(project: Project, place: str) -> None:
    project.environment |= {"XDG_CACHE_HOME": place, "HOME": "/dev/null"}
    for _ in range(2):
        assert setting(project, r"opset: (\d+)") == "18"


def test_commands_at_the_same_time_do_not_disturb_each_other(project: Project) -> None:
    running = [project.start("settings", "precision=fp32,fp16") for _ in range(4)]
    results = [project.end_of(process) for process in running]
    assert {(result.code, result.err) for result in results} == {(0, "")}
    assert len({result.out for result in results}) == 1
    assert len(entries(project)) == 1
