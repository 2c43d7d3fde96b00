"""A remembered composition is used exactly where Hydra would compose the same again."""

import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

from tasks.settings import cache_folder, compose, hydra_compose, remembered
from tasks.settings.schema import Config

LATER = 60.0  # seconds after which no file counts as just changed
ESTIMATOR = "model.components.flow_decoder_estimator"
WORDS: Sequence[Sequence[str]] = (
    (),
    *((f"model={model}", f"precision={p}") for model in ("demo", "cosyvoice", "cosyvoice2") for p in ("fp16", "bf16")),
    ("model=cosyvoice,cosyvoice2,cosyvoice3", "precision=fp32,fp16,bf16", "model.dir=some/folder"),
    ("train.lr=1", "train.grad_clip=2.5e-3", "verify.atol=1e-300", "vllm.min_snr_db=-0.0"),
    ("tensorrt.profile.frames=[4,500,3000]", "tensorrt.profiles=[{frames: [4,5,6]},{frames: [7,8,9]}]"),
    ("model.name='3.10'", "artifacts=a \\'b\\' ${precision.name} 粤语 \udcff"),
    ("model=cosyvoice2", "model.dir=null", "model.checkpoints.flow=x", f"{ESTIMATOR}.recordings=[a.pt,'b,c.pt']"),
    (f"++{ESTIMATOR}.options={{a: 1, b: 1.0, c: true, d: null, e: 'x', f: [1, [2.0, null], {{g: '1'}}]}}",),
    ("~model.components.flow_encoder", "onnx.keep_fp32=[]", "onnx.exporter=torchscript", "tensorrt.mode=off"),
    ("train.seed=1,2", "model.axes={tokens: {max: 9, min: 1, opt: 2}}"),
    ("model.components.flow_encoder={name: other, kept_methods: [a]}",),
)  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "voxkiln" / "settings"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what is in the key, to be changed."""
    for name in ("conf", "tasks"):
        shutil.copytree(remembered.ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(remembered, "CONF", tmp_path / "conf")
    monkeypatch.setattr(remembered, "CODE", (tmp_path / "tasks" / "settings", tmp_path / "tasks"))
    return tmp_path


def compose_and_remember(*words: str) -> list[Config]:
    combinations, environment = hydra_compose.composed(words)
    assert environment is not None
    configs = [config for _, config in combinations if config]
    assert len(configs) == len(combinations)
    remembered.remember(words, configs, environment=environment, began=time.time() + LATER)
    return configs


def the_entry(cache: Path) -> Path:
    (entry,) = cache.iterdir()
    return entry


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_what_is_remembered_is_what_was_composed_with_types_and_order(words: Sequence[str]) -> None:
    composed = compose_and_remember(*words)
    found = remembered.configs(words)
    assert found == composed
    assert repr(found) == repr(composed)  # 1, 1.0 and True are equal, and so are mappings in any order


def test_configurations_are_made_anew_for_each_call() -> None:
    compose_and_remember()
    first = remembered.configs([])
    assert first
    first[0].model.axes.clear()
    assert remembered.configs([]) != first


def test_the_order_of_the_words_counts() -> None:
    compose_and_remember("train.seed=1", "train.seed=2")
    assert remembered.configs(["train.seed=2", "train.seed=1"]) is None


@pytest.mark.parametrize("name", ["conf/config.yaml", "conf/model/_component/hift.yaml", "tasks/settings/schema.py",
                                  "tasks/objects.py"])  # fmt: skip
def test_one_byte_of_any_file_that_shapes_it_counts(project: Path, name: str) -> None:
    compose_and_remember()
    assert remembered.configs([])
    with (project / name).open("a") as file:
        file.write("\n")
    assert remembered.configs([]) is None


@pytest.mark.parametrize("name", ["conf/model/mine.yaml", "conf/mine/x.yaml", "tasks/settings/mine.py"])
def test_a_file_more_counts_and_its_removal(project: Path, name: str) -> None:
    compose_and_remember()
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).touch()
    assert remembered.configs([]) is None
    (project / name).unlink()
    if (project / name).parent.name == "mine":
        (project / name).parent.rmdir()
    assert remembered.configs([])
    (project / "conf/model/cosyvoice3.yaml").unlink()
    assert remembered.configs([]) is None


def test_a_renamed_file_counts(project: Path) -> None:
    compose_and_remember()
    (project / "conf/model/cosyvoice3.yaml").rename(project / "conf/model/cosyvoice4.yaml")
    assert remembered.configs([]) is None


@pytest.mark.parametrize("what", ["python", "library", "root"])
def test_versions_and_the_place_of_the_project_count(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compose_and_remember()
    if what == "python":
        monkeypatch.setattr(sys, "version", "3.99")
    elif what == "library":
        monkeypatch.setattr(remembered, "DISTRIBUTIONS", (*remembered.DISTRIBUTIONS, "pytest"))
    else:
        monkeypatch.setattr(remembered, "ROOT", Path("/elsewhere"))
    assert remembered.configs([]) is None


def test_all_code_that_composes_and_checks_counts() -> None:
    code = (
        "import sys; from tasks.settings import hydra_compose\n"
        "print(*(m.__file__ for name, m in sys.modules.items() if name.startswith('tasks.')), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=remembered.ROOT, capture_output=True, text=True, check=True)
    used = {Path(line) for line in done.stdout.splitlines()}
    assert remembered.ROOT / "tasks" / "settings" / "validation.py" in used
    assert {str(path) for path in used} <= set(remembered._files())


def test_plugins_of_hydra_are_left_to_hydra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compose_and_remember()
    (tmp_path / "hydra_plugins").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert remembered.configs([]) is None


@pytest.mark.parametrize("word", ["artifacts=${oc.env:KILN_X}", "artifacts=${oc.env:KILN_X,/usual}"])
def test_an_environment_variable_that_was_looked_up_counts(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILN_X", "/one")
    compose_and_remember(word)
    assert remembered.configs([word])
    monkeypatch.setenv("KILN_X", "/two")
    assert remembered.configs([word]) is None
    monkeypatch.delenv("KILN_X")
    assert remembered.configs([word]) is None


def test_a_variable_that_was_not_set_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    compose_and_remember("artifacts=${oc.env:KILN_X,/usual}")
    monkeypatch.setenv("KILN_X", "/one")
    assert remembered.configs(["artifacts=${oc.env:KILN_X,/usual}"]) is None


def test_the_clock_makes_every_composition_another() -> None:
    assert hydra_compose.composed(["artifacts=runs/${now:%Y-%m-%d}"]).environment is None


def test_a_warning_is_given_each_time() -> None:
    word = "artifacts=${oc.deprecated:model.name}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert hydra_compose.composed([word]).environment is None
    assert "deprecated" in str(caught[0].message)


def test_the_source_of_an_object_that_a_setting_names_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "kiln_mine.py"
    module.write_text("def load(): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    word = "model.components.flow_encoder.loader=kiln_mine:load"
    compose_and_remember(word)
    assert remembered.configs([word])
    module.write_text("load = 1\n")
    assert remembered.configs([word]) is None
    module.unlink()
    assert remembered.configs([word]) is None


def test_problems_are_found_again_each_time(cache: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(compose.ConfigError):
            compose.load(["onnx.opset=99"], workdir=tmp_path)
    assert not cache.exists()


def test_paths_are_looked_at_each_time(tmp_path: Path) -> None:
    compose_and_remember("model=cosyvoice2", "model.dir=x")
    for folder in ("one", "two"):
        (config,) = compose.load(["model=cosyvoice2", "model.dir=x"], workdir=tmp_path / folder)
        assert config.model.dir == str(tmp_path / folder / "x")


def test_a_file_that_was_changed_just_now_may_not_be_what_was_imported(project: Path, cache: Path) -> None:
    (project / "conf/config.yaml").touch()
    combinations, environment = hydra_compose.composed([])
    assert environment is not None
    composed = [config for _, config in combinations if config]
    remembered.remember([], composed, environment=environment, began=time.time())
    assert not cache.exists()


def test_mappings_with_keys_that_are_no_text_are_not_remembered(cache: Path) -> None:
    compose_and_remember(f"++{ESTIMATOR}.options={{a: {{1: b}}}}")
    assert not cache.exists()


@pytest.mark.parametrize("keep", [0, 1, 40, 64, 65, 66, 300, -1])
def test_a_truncated_entry_is_not_used(cache: Path, keep: int) -> None:
    compose_and_remember()
    entry = the_entry(cache)
    entry.write_bytes(entry.read_bytes()[:keep])
    assert remembered.configs([]) is None


def test_an_edited_entry_is_not_used(cache: Path) -> None:
    compose_and_remember()
    entry = the_entry(cache)
    entry.write_text(entry.read_text().replace('"opset": 18', '"opset": 17'))
    assert remembered.configs([]) is None


def test_an_entry_under_another_name_is_not_used(cache: Path) -> None:
    compose_and_remember("train.seed=1")
    entry = the_entry(cache)
    compose_and_remember()
    (other,) = set(cache.iterdir()) - {entry}
    shutil.copy(entry, other)
    assert remembered.configs([]) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"opset": 18', '"opset": 18.0'),
        ('"opset": 18', '"opset": "18"'),
        ('"opset": 18', '"opset": true'),
        ('"opset": 18, ', ""),
        ('"opset": 18', '"opset": 18, "more": 1'),
        ('"lr": 0.001', '"lr": 1'),
        ('"exporter": "auto"', '"exporter": "other"'),
        ('"artifacts": "artifacts"', '"artifacts": null'),
        ('"keep_fp32": [', '"keep_fp32": [1, '),
        ('"configs"', '"config"'),
        ('"environment": {}', '"environment": 3'),
        ("{", "[" * 100_000),
    ],
)
def test_an_entry_of_another_form_is_not_used_whoever_wrote_it(cache: Path, old: str, new: str) -> None:
    compose_and_remember()
    entry = the_entry(cache)
    text = entry.read_text().partition("\n")[2]
    assert old in text
    cache_folder.write(entry.name, text.replace(old, new, 1))
    assert remembered.configs([]) is None


def test_what_follows_from_conf_is_made_once() -> None:
    calls: list[int] = []

    def make() -> dict[str, list[int]]:
        calls.append(1)
        return {"made": calls}

    time_of_files = max(path.stat().st_ctime for path in remembered.CONF.rglob("*"))
    if time.time() - time_of_files < remembered.SETTLED_SECONDS:
        pytest.skip("this checkout was made just now")
    assert remembered.from_conf("x", make) == remembered.from_conf("x", make) == {"made": [1]}
    assert len(calls) == 1
