"""What the README says works: its commands, settings and links."""

import re
from pathlib import Path

import pytest

from tasks.pipeline.stages.table import STAGES
from tasks.settings.compose import load
from tests.support.project import ROOT, Project

README = (ROOT / "README.md").read_text()
SETTINGS = re.findall(r"^\| [^|]+ \| (`[^|]*=[^|]*`)[^|]*\|$", README, re.MULTILINE)


def commands() -> list[str]:
    return [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.strip().splitlines()]


def test_ci_runs_exactly_the_test_command() -> None:
    (command,) = [line for line in commands() if "pytest" in line]
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_first_command_installs_and_runs_the_main_job() -> None:
    (command,) = [line for line in commands() if "doit export_all" in line and "pip install" in line]
    assert command.endswith("pip install -e . && doit export_all")


@pytest.mark.parametrize("cell", SETTINGS)
def test_every_setting_of_the_cheat_sheet_is_accepted(cell: str) -> None:
    for written in re.findall(r"`([^`]*)`", cell):
        words = [word.strip("'") for word in written.split() if "=" in word]
        assert load(words, workdir=Path("/w"))


def test_the_cheat_sheet_was_found() -> None:
    assert len(SETTINGS) > 10


def test_every_task_that_is_named_exists(tmp_path: Path) -> None:
    named = set(re.findall(r"`doit (?:-n 2 )?([a-z_]+)", README))
    listed = Project.copy_to(tmp_path).doit("list")
    doits_own = {"list", "clean", "ignore", "info"}
    assert named - doits_own <= {line.split()[0] for line in listed.out.splitlines()}


def test_every_file_that_is_linked_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert not [link for link in links if "://" not in link and not (ROOT / link).exists()]


def test_the_commands_are_those_of_the_table_of_stages_with_the_same_words() -> None:
    rows = dict(re.findall(r"^\| `doit ([a-z_]+)` \| (.*) \|$", README, re.MULTILINE))
    for stage in STAGES:
        assert rows[stage.name] == stage.summary


def test_the_rooms_are_those_of_the_package() -> None:
    named = set(re.findall(r"^\| \[tasks/(\w+)/\]", README, re.MULTILINE))
    rooms = {path.parent.name for path in ROOT.glob("tasks/*/__init__.py")}
    assert rooms - named == {"cache", "speech"}  # nothing has moved in yet
