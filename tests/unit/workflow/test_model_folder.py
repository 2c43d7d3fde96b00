"""A folder tells its model by the classes in its YAML, whatever the file is called; otherwise it is asked for."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ConfigError, UserError
from tasks.models.cosyvoice.hyperyaml.class_map import MODEL_OF_FLOW
from tasks.settings.schema import Config
from tasks.workflow.model_folder import known_models, load_settings, without_yaml
from tests.support.project import GOLDEN

GOLDEN_YAML = {
    "cosyvoice": GOLDEN / "cosyvoice1" / "cosyvoice.yaml",
    "cosyvoice2": GOLDEN / "cosyvoice2" / "cosyvoice2.yaml",
    "cosyvoice3": GOLDEN / "cosyvoice3" / "cosyvoice3.yaml",
}
Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Makes a model folder with these YAML files, each a copy of a model's."""

    def make(**files: str) -> Path:
        for name, model in files.items():
            text = GOLDEN_YAML[model].read_text(encoding="utf-8") if model in GOLDEN_YAML else model
            (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
        return tmp_path

    return make


def loaded(*words: str) -> Config:
    (config,) = load_settings(words, workdir=Path("/w"))
    return config


def problem(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(words, workdir=Path("/w"))
    (line,) = caught.value.problems
    return line


@pytest.mark.parametrize("model", GOLDEN_YAML)
@pytest.mark.parametrize("name", ["config", "cosyvoice", "cosyvoice2", "cosyvoice3"])
def test_the_classes_tell_the_model_and_not_the_name(folder: Folder, model: str, name: str) -> None:
    config = loaded(f"model.dir={folder(**{name: model})}")
    assert (config.model.name, config.model.config) == (model, f"{name}.yaml")


def test_a_model_that_is_set_stays_set(folder: Folder) -> None:
    config = loaded("model=cosyvoice3", f"model.dir={folder(cosyvoice2='cosyvoice2')}")
    assert (config.model.name, config.model.config) == ("cosyvoice3", "cosyvoice3.yaml")


def test_the_first_layout_of_a_model_is_found_under_the_name_it_had(folder: Folder) -> None:
    config = loaded("model=cosyvoice2", f"model.dir={folder(cosyvoice='cosyvoice2')}")
    assert config.model.config == "cosyvoice.yaml"


def test_the_usual_name_goes_before_another_one(folder: Folder) -> None:
    where = folder(cosyvoice="cosyvoice2", cosyvoice2="cosyvoice2")
    for words in ([f"model.dir={where}"], ["model=cosyvoice2", f"model.dir={where}"]):
        assert loaded(*words).model.config == "cosyvoice2.yaml"


def test_a_yaml_that_is_set_tells_the_model(folder: Folder) -> None:
    where = folder(mine="cosyvoice3", cosyvoice="cosyvoice")
    config = loaded(f"model.dir={where}", "model.config=mine.yaml")
    assert (config.model.name, config.model.config) == ("cosyvoice3", "mine.yaml")


def test_a_broken_yaml_still_tells_the_model(folder: Folder) -> None:
    where = folder(cosyvoice2="cosyvoice2")
    with (where / "cosyvoice2.yaml").open("ab") as file:
        file.write("\n# 流匹配\n]".encode("gbk"))
    assert loaded(f"model.dir={where}").model.name == "cosyvoice2"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_yaml_in_any_encoding_that_is_read_tells_the_model(folder: Folder, encoding: str) -> None:
    path = folder(cosyvoice2="cosyvoice2") / "cosyvoice2.yaml"
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    assert loaded(f"model.dir={path.parent}").model.name == "cosyvoice2"


def test_a_hidden_yaml_does_not_count(folder: Folder) -> None:
    where = folder(cosyvoice2="cosyvoice2", **{".cosyvoice": "cosyvoice", "._cosyvoice2": "cosyvoice2"})
    assert loaded(f"model.dir={where}").model.config == "cosyvoice2.yaml"


def test_a_class_in_a_comment_does_not_count(folder: Folder) -> None:
    where = folder(cosyvoice2="flow: 1 # was !new:cosyvoice.flow.flow.CausalMaskedDiffWithXvec\n")
    assert "set model=NAME, one of cosyvoice, cosyvoice2, cosyvoice3" in problem(f"model.dir={where}")


def test_a_folder_of_two_models_is_asked_about_with_the_choices(folder: Folder) -> None:
    where = folder(cosyvoice="cosyvoice", cosyvoice3="cosyvoice3")
    assert "set model=cosyvoice or model=cosyvoice3" in problem(f"model.dir={where}")


def test_two_files_of_one_model_are_asked_about_with_the_choices(folder: Folder) -> None:
    where = folder(a="cosyvoice2", b="cosyvoice2")
    assert "set model.config=a.yaml or model.config=b.yaml" in problem(f"model.dir={where}")


def test_folders_without_a_yaml_are_reported(tmp_path: Path) -> None:
    assert "has no YAML" in problem(f"model.dir={tmp_path}")
    assert "no such folder" in problem(f"model.dir={tmp_path}/none")


def test_what_is_no_small_file_is_not_looked_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").symlink_to("/dev/zero")
    with (tmp_path / "c.yaml").open("wb") as file:
        file.truncate(100 * 2**30)
    assert "no class in c.yaml identifies the model" in problem(f"model.dir={tmp_path}")


@pytest.mark.parametrize(
    ("files", "shown"),
    [
        ({"config": "cosyvoice"}, "there is config.yaml: set model.config=config.yaml"),
        ({"mine": "flow: 1"}, "there is mine.yaml: set model.config=mine.yaml"),
        ({"cosyvoice2": "cosyvoice2"}, "cosyvoice2.yaml describes cosyvoice2: set model=cosyvoice2"),
        ({"mine": "cosyvoice2"}, "mine.yaml describes cosyvoice2: set model=cosyvoice2 model.config=mine.yaml"),
        ({}, "and no other YAML"),
    ],
)
def test_a_missing_yaml_names_the_setting_that_helps(folder: Folder, files: dict[str, str], shown: str) -> None:
    where = folder(**files)
    text = without_yaml(where / "cosyvoice.yaml")
    assert text.startswith(f"model.dir={where}: has no cosyvoice.yaml")
    assert shown in text


def test_the_loader_of_a_folder_knows_the_same_classes() -> None:
    for model, declared in known_models().items():
        assert {name for name in declared["classes"] if MODEL_OF_FLOW.get(name) == model}


def test_a_yaml_that_may_not_be_read_does_not_count_as_one_without_a_class(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = folder(cosyvoice2="cosyvoice2")
    readers = {name: getattr(Path, name) for name in ("read_bytes", "open")}

    def reader(name: str) -> Callable[..., Any]:
        def read(self: Path, *arguments: Any, **options: Any) -> Any:
            if self.parent == where:
                raise PermissionError(13, "Permission denied")
            return readers[name](self, *arguments, **options)

        return read

    for name in readers:
        monkeypatch.setattr(Path, name, reader(name))
    with pytest.raises(UserError, match=r"cosyvoice2\.yaml: cannot be read .got Permission denied"):
        load_settings([f"model.dir={where}"], workdir=Path("/w"))
