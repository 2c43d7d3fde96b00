"""Each way in which doit can end on what is wrong: exit code, what is named, and that nothing half-written is left.

Folders are tried further on their readers, in tests/models, and settings in tests/unit/settings.
"""

import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.errors import ConfigError, UserError
from tasks.models.cosyvoice.folder import load_component
from tasks.settings.compose import load
from tests.support.checkpoints import write_checkpoints
from tests.support.denied import denied_prefix
from tests.support.folders import component
from tests.support.project import GOLDEN, HANGS_AFTER_SECONDS, ROOT, Project
from tests.support.read_only import read_only

USER_ERROR, CRASH, CONFIGURATION = 1, 2, 3
EXPORTS = ("export_jit", "export_onnx")
ENCODER = component("flow.encoder")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder with a flow, to be broken."""
    (tmp_path / "model").mkdir()
    for name in ("cosyvoice2.yaml", "flow.pt"):
        shutil.copy(GOLDEN / "cosyvoice2" / name, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def project(model: Path, tmp_path: Path) -> Project:
    """The checkout itself, with a folder for artifacts of its own."""
    return Project(ROOT, settings_for(model, tmp_path / "artifacts"))


def settings_for(model: Path, artifacts: Path) -> tuple[str, ...]:
    quick = ("model.components.flow_encoder.formats=[torchscript]", "onnx.exporter=torchscript")
    return ("model=cosyvoice2", f"model.dir={model}", f"artifacts={artifacts}", *quick)


def artifacts_left(project: Project) -> list[Path]:
    (folder,) = [Path(word.removeprefix("artifacts=")) for word in project.settings if word.startswith("artifacts=")]
    return [path for path in (folder / "cosyvoice2").rglob("*") if path.is_file()]


def message(project: Project, *words: str, code: int) -> str:
    """All that a failing command prints; it must fail with `code`, without a traceback, and leave nothing."""
    result = project.doit(*words)
    text = result.out + result.err
    assert result.code == code, text
    assert "Traceback" not in text
    assert artifacts_left(project) == []
    return text


def test_a_folder_that_is_not_there(project: Project) -> None:
    text = message(project, "model.dir=/nowhere", code=CONFIGURATION)
    assert text.count("model.dir=/nowhere") == 1  # once, whatever the steps would read there


def test_no_folder_given() -> None:
    result = Project(ROOT).doit("list", "model=cosyvoice2")
    assert result.code == CONFIGURATION
    assert len(result.err.splitlines()) == 1
    assert "model.dir=DIR" in result.err


def test_a_folder_for_a_model_that_is_built_in(project: Project) -> None:
    text = message(project, "list", "model=demo", code=CONFIGURATION)
    assert "demo" in text
    assert "model=cosyvoice2" in text


def test_several_wrong_settings_are_all_named(project: Project) -> None:
    words = ("onnx.opsett=17", "verify.rtol=abc", "average.num=0")
    text = message(project, *words, code=CONFIGURATION)
    assert all(part in text for part in (*words, "onnx.opset?"))


@pytest.mark.parametrize("artifacts", ["/proc/voxkiln", "FILE/below"])
def test_an_output_folder_that_cannot_be_written(project: Project, artifacts: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    text = message(project, f"artifacts={artifacts.replace('FILE', str(tmp_path / 'file'))}", code=CONFIGURATION)
    assert "artifacts=DIR" in text


def test_commands_that_only_read_work_where_artifacts_cannot_be_written(project: Project, tmp_path: Path) -> None:
    """Others name the reason in one line."""
    assert project.doit("average").code == 0
    with read_only(tmp_path / "artifacts"):
        for command in ("list", "why", "settings", "doctor"):
            result = project.doit(command)
            assert result.code == 0, result.out + result.err
            assert result.out
        for command in ("forget", "clean", "export_jit"):
            result = project.doit(command)
            assert result.code == CONFIGURATION, result.out + result.err
            assert len(result.err.splitlines()) == 1
            assert "artifacts=DIR" in result.err


def test_clean_leaves_what_was_not_built_here_and_fails_where_it_cannot_do_its_work(
    project: Project, model: Path, tmp_path: Path
) -> None:
    """The artifacts go into the model's own folder, which has a file of the name of one."""
    own = tmp_path / "cosyvoice2" / "flow.encoder.fp32.zip"
    model.rename(own.parent)
    own.touch()
    project = Project(ROOT, settings_for(own.parent, tmp_path))
    cleaned = project.doit("clean")
    assert cleaned.code == 0, cleaned.out + cleaned.err
    assert f"leaving {own}" in cleaned.out
    assert own.is_file()
    lock = tmp_path / ".voxkiln" / "locks" / "export_jit" / "cosyvoice2" / "flow.encoder.fp32.lock"
    lock.unlink()
    lock.mkdir()
    failed = project.doit("clean")
    assert failed.code == USER_ERROR
    assert len(failed.err.splitlines()) == 1
    assert str(lock) in failed.err


@pytest.mark.parametrize("opset", [7, 99])
def test_an_opset_out_of_range(opset: int) -> None:
    with pytest.raises(ConfigError) as caught:
        load([f"onnx.opset={opset}"], workdir=ROOT)
    (problem,) = caught.value.problems
    assert f"onnx.opset={opset}" in problem


def test_axis_sizes_in_the_wrong_order() -> None:
    words = ["model.axes.frames.min=900", "model.axes.frames.opt=500", "model.axes.frames.max=100"]
    with pytest.raises(ConfigError) as caught:
        load(words, workdir=ROOT)
    assert all(part in caught.value.problems[0] for part in ("model.axes.frames", "900", "500", "100"))


@pytest.mark.parametrize("words", [["average"], ["run", "-o", "FILE", "average"]])
def test_a_terminal_or_file_that_is_not_utf_8_gets_escapes(project: Project, words: list[str], tmp_path: Path) -> None:
    project.environment |= {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    file = tmp_path / "file"
    result = project.doit(*(str(file) if word == "FILE" else word for word in words), "model.name=粤语")
    assert result.code == 0, result.out + result.err
    if "FILE" in words:
        assert "average:粤语/flow" in file.read_text(encoding="utf-8")
    else:
        assert "average:\\u7ca4\\u8bed/flow" in result.out


@pytest.mark.parametrize(
    ("redirection", "command", "code"),
    [
        (">/dev/full", "export_jit", 0),
        (">/dev/full 2>&1", "export_jit", 0),
        (">&-", "export_jit", 0),
        ("<&- >&- 2>&-", "export_jit", 0),
        (">/dev/full", "why", USER_ERROR),  # which does nothing else
        (">&-", "why", 0),
    ],
)
def test_output_that_cannot_be_written(project: Project, redirection: str, command: str, code: int) -> None:
    line = shlex.join([sys.executable, "-m", "doit", command, *project.settings])
    done = subprocess.run(
        f"{line} {redirection}", shell=True, cwd=project.root, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert bool(done.stderr) == bool(code)
    assert bool(artifacts_left(project)) == (command == "export_jit")


def test_a_truncated_checkpoint(project: Project, model: Path) -> None:
    path = model / "flow.pt"
    path.write_bytes(path.read_bytes()[:5000])
    assert str(path) in message(project, "export_jit", code=USER_ERROR)


def with_a_hostile_entry(model: Path, tag: str) -> Path:
    """Let the YAML ask for a command; returns the file that the command would make."""
    path, proof = model / "cosyvoice2.yaml", model / "was-run"
    path.write_text(f"{path.read_text()}\nhostile: {tag} ['touch {proof}']\n")
    return proof


@pytest.mark.parametrize(
    ("denied", "mode"), [("model/flow.pt", 0), ("model/cosyvoice2.yaml", 0), ("model", 0), ("model", 0o400),
                         ("checkpoints", 0), ("checkpoints", 0o400), ("checkpoints/epoch_0_whole.pt", 0),
                         ("artifacts/cosyvoice2/flow.encoder.fp32.zip", 0), ("artifacts/cosyvoice2/verify", 0),
                         ("artifacts", 0)],
)  # fmt: skip
def test_what_may_not_be_read(project: Project, tmp_path: Path, denied: str, mode: int) -> None:
    """Files and folders alike, whatever the command."""
    project.prefix = denied_prefix(tmp_path)
    write_checkpoints(tmp_path / "checkpoints", tmp_path / "model" / "flow.pt", losses=[1.0])
    (tmp_path / "artifacts" / "cosyvoice2" / "verify").mkdir(parents=True)
    (tmp_path / "artifacts" / "cosyvoice2" / "flow.encoder.fp32.zip").touch()
    if denied.startswith("checkpoints"):
        project.settings += (f"model.checkpoints.flow={tmp_path / 'checkpoints'}", "average.num=1")
    (tmp_path / denied).chmod(mode)
    settings = [project.settings]
    if denied.startswith("model"):
        settings.append(project.settings[1:])  # without `model=`, which the folder then tells
    for project.settings in settings:
        for command in ("average", "why", "list"):
            result = project.doit(command)
            assert result.code == CONFIGURATION, result.out + result.err
            assert "Traceback" not in result.err
            assert len(result.err.splitlines()) == 1
            assert str(tmp_path / denied) in result.err
            assert "permissions" in result.err
    (tmp_path / denied).chmod(0o700)


def test_a_yaml_that_would_run_code(project: Project, model: Path) -> None:
    proof = with_a_hostile_entry(model, "!!python/object/apply:os.system")
    assert "cosyvoice2.yaml" in message(project, "export_jit", code=USER_ERROR)
    assert not proof.exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!apply:os.system", "!new:os.system"])
def test_a_yaml_that_would_run_code_is_not_read(model: Path, tag: str) -> None:
    proof = with_a_hostile_entry(model, tag)
    with pytest.raises(UserError, match=r"cosyvoice2\.yaml"):
        load_component(ENCODER, config=model / "cosyvoice2.yaml", weights=model / "flow.pt")
    assert not proof.exists()


def test_a_bug_in_an_action_ends_with_its_traceback_and_leaves_nothing(model: Path, tmp_path: Path) -> None:
    project = Project.copy_to(tmp_path / "project", *settings_for(model, tmp_path / "artifacts"))
    action = project.root / "tasks" / "actions" / "export_torchscript" / "action.py"
    action.write_text(f"{action.read_text()}\n\ndef run(job):\n    raise KeyError('a bug')\n")
    result = project.doit("export_jit")
    assert result.code == CRASH, result.out + result.err
    assert "KeyError: 'a bug'" in result.out + result.err
    assert artifacts_left(project) == []


# With the first limit our own files fit and no artifact does, with the second nothing does.
@pytest.mark.parametrize(("stage", "limit"), [*((stage, 100_000) for stage in EXPORTS), (EXPORTS[0], 0)])
def test_a_disk_that_is_full(project: Project, stage: str, limit: int) -> None:
    """A limit on file sizes ends writes in the middle, as a full disk does."""
    done = subprocess.run(
        [sys.executable, "-m", "doit", stage, *project.settings],
        cwd=project.root,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS_AFTER_SECONDS,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == USER_ERROR, done.stdout + done.stderr
    assert "artifacts=DIR" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert artifacts_left(project) == []
    assert not [path for path in Path(project.settings[2].partition("=")[2]).rglob(".*.*") if path.is_file()]
