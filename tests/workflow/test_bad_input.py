"""What a user is told about each thing that can be wrong, and that nothing half-written is left."""

import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.project import GOLDEN, Project

EXPORTS = ("export_jit", "export_onnx")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pristine")
    Project.copy_to(root)
    shutil.copytree(
        GOLDEN / "cosyvoice2",
        root / "model",
        ignore=shutil.ignore_patterns("golden*", "frontend*", "hift.pt", "llm.pt"),
    )
    return root


@pytest.fixture
def project(pristine: Path, tmp_path: Path) -> Project:
    model = tmp_path / "model"
    shutil.copytree(pristine / "model", model)
    artifacts = tmp_path / "artifacts"
    only_torchscript = "model.components.flow_encoder.formats=[torchscript]"
    return Project(pristine, ("model=cosyvoice2", f"model.dir={model}", f"artifacts={artifacts}", only_torchscript))


def model_of(project: Project) -> Path:
    return Path(project.settings[1].partition("=")[2])


def artifacts_left(project: Project) -> list[str]:
    folder = Path(project.settings[2].partition("=")[2]) / "cosyvoice2"
    return [str(path) for path in folder.rglob("*") if path.is_file()]


def told(project: Project, *words: str, code: int) -> str:
    """Everything a failing command prints; it must fail with `code`, without a traceback, and leave nothing."""
    result = project.doit(*words)
    text = result.out + result.err
    assert result.code == code, text
    assert "Traceback" not in text
    assert artifacts_left(project) == []
    return text


def with_weights(project: Project, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = model_of(project) / "flow.pt"
    weights = torch.load(path, weights_only=True)
    change(weights)
    torch.save(weights, path)


def poison(weights: dict[str, torch.Tensor], value: float) -> None:
    """Put one bad number into a tensor of the encoder."""
    weights["encoder.embed.out.0.weight"][3, 5] = value


def replace_in_yaml(project: Project, old: str, new: str) -> None:
    path = model_of(project) / "cosyvoice2.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_folder_that_is_not_there(project: Project) -> None:
    assert "model.dir=/nowhere: no such folder" in told(project, "model.dir=/nowhere", code=3)


def test_no_folder_given() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "doit", "list", "model=cosyvoice2"],
        cwd=GOLDEN.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr == "ERROR: model.dir: not given; cosyvoice2 is read from it: say model.dir=DIR\n"


def test_a_folder_for_a_model_that_is_built_in(project: Project) -> None:
    text = told(project, "list", "model=demo", code=3)
    assert "demo is built in and reads no folder; say model=cosyvoice2" in text


def test_an_unknown_model(project: Project) -> None:
    project.settings = (*project.settings[1:], "model=cosyvoice22")
    result = project.doit("list")
    assert result.code == 3
    assert "model=cosyvoice22: no such model" in result.err
    assert "did you mean cosyvoice2?" in result.err


@pytest.mark.parametrize("opset", [7, 99])
def test_an_opset_out_of_range(project: Project, opset: int) -> None:
    assert f"onnx.opset={opset}: out of range; allowed: " in told(project, f"onnx.opset={opset}", code=3)


def test_axis_sizes_in_the_wrong_order(project: Project) -> None:
    words = ("model.axes.frames.min=900", "model.axes.frames.opt=500", "model.axes.frames.max=100")
    assert "needs 1 <= min <= opt <= max, got min=900, opt=500, max=100" in told(project, *words, code=3)


def test_several_wrong_settings_are_told_at_once(project: Project) -> None:
    text = told(project, "onnx.opsett=17", "verify.rtol=abc", "average.num=0", code=3)
    assert all(part in text for part in ("3 problems:", "did you mean onnx.opset?", "verify.rtol", "average.num=0"))


@pytest.mark.parametrize("stage", EXPORTS)
def test_a_yaml_that_names_an_unknown_class(project: Project, stage: str) -> None:
    replace_in_yaml(project, "flow.decoder.CausalConditionalDecoder", "flow.decoder.CausalConditionalDecoderX")
    replace_in_yaml(project, "upsample_encoder.UpsampleConformerEncoder", "upsample_encoder.UpsampleConformerEncoderX")
    text = told(project, stage, code=1)
    assert "cosyvoice2.yaml" in text
    assert "a class that is not known here" in text


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!apply:os.system", "!new:os.system"])
def test_a_yaml_that_would_run_code(project: Project, tag: str, tmp_path: Path) -> None:
    path = model_of(project) / "cosyvoice2.yaml"
    proof = tmp_path / "was-run"
    path.write_text(f"{path.read_text()}\nhostile: {tag} ['touch {proof}']\n")
    project.doit("export_jit")
    assert not proof.exists()
    if not tag.startswith("!new"):  # !new: of something that nobody builds is never looked up
        assert "cosyvoice2.yaml" in told(project, "export_jit", code=1)


@pytest.mark.parametrize("stage", EXPORTS)
def test_a_truncated_checkpoint(project: Project, stage: str) -> None:
    path = model_of(project) / "flow.pt"
    path.write_bytes(path.read_bytes()[:5000])
    assert str(path) in told(project, stage, code=1)


def test_a_file_that_is_no_checkpoint(project: Project) -> None:
    (model_of(project) / "flow.pt").write_text("hello")
    assert "flow.pt" in told(project, "export_jit", code=1)


def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes_and_the_file(project: Project) -> None:
    name = "encoder.embed.out.0.weight"
    with_weights(project, lambda w: w.update({name: torch.zeros(7, 48)}))
    text = told(project, "export_jit", code=1)
    assert all(part in text for part in ("flow.pt", "embed.out.0.weight", "(7, 48)", "(48, 48)"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(project: Project, value: float) -> None:
    with_weights(project, lambda w: poison(w, value))
    text = told(project, "export_jit", code=1)
    assert all(part in text for part in ("flow.pt", "embed.out.0.weight"))


def test_the_estimators_export_does_not_read_the_encoders_weights(project: Project) -> None:
    with_weights(project, lambda w: poison(w, float("nan")))
    assert project.doit("export_onnx").code == 0


def test_missing_and_unexpected_tensors_are_listed_with_counts(project: Project) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["encoder.surprise"] = torch.zeros(1)
        del weights["encoder.after_norm.bias"]

    with_weights(project, change)
    text = told(project, "export_jit", code=1)
    assert all(part in text for part in ("after_norm.bias", "surprise"))


@pytest.mark.parametrize("artifacts", ["/proc/voxkiln", "FILE/below"])
def test_an_output_folder_that_cannot_be_written(project: Project, artifacts: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    text = told(project, f"artifacts={artifacts.replace('FILE', str(tmp_path / 'file'))}", code=3)
    assert "write elsewhere: artifacts=DIR" in text


@pytest.mark.parametrize("stage", EXPORTS)
def test_a_disk_that_is_full(project: Project, stage: str) -> None:
    """A limit on file sizes ends writes in the middle, as a full disk does."""
    command = [sys.executable, "-m", "doit", stage, *project.settings]
    limit = 100_000  # the digests' memo fits, no artifact does
    done = subprocess.run(
        command,
        cwd=project.root,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "cannot write" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert artifacts_left(project) == []
