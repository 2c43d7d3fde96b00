"""What lies where the artifacts folder and our own folders belong, seen before anything runs."""

import sys
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.pipeline.step import Step
from tasks.workflow.artifacts_folder import prepare, require_folders


def step(root: Path) -> Step:
    return Step("export_jit", "demo/x", "a:run", {}, {"zip": root / "demo" / "verify" / "x.zip"}, {})


def prepared(root: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["doit", command])
    prepare(root)
    require_folders([step(root)], root)


NEEDED = ["", ".voxkiln", "demo", "demo/verify", "demo/verify/.partial"]
NEEDED += [f".voxkiln/{name}" for name in ("locks", "locks/export_jit", "requests", "logs", "sockets", "timing-caches")]


@pytest.mark.parametrize("name", NEEDED)
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "artifacts"
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).touch()
    with pytest.raises(UserError, match=r"is a file in the place of a folder\. Move or remove it") as caught:
        prepared(root, "export_all", monkeypatch)
    assert caught.value.where == str(root / name)
    prepared(root, "why", monkeypatch)


def test_so_is_a_link_to_nothing_and_one_to_a_folder_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "demo").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a broken link in the place of a folder"):
        prepared(tmp_path / "artifacts", "export_all", monkeypatch)
    (tmp_path / "elsewhere").mkdir()
    prepared(tmp_path / "artifacts", "export_all", monkeypatch)
