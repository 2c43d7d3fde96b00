"""An installed TensorRT and what keeps plans from being built or run are found without importing TensorRT."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.machine import tensorrt_install
from tasks.machine.gpus import Gpu
from tasks.machine.tensorrt_install import build_obstacle, has_libraries, runtime_obstacle

ROOT = Path(__file__).resolve().parents[3]
GPU = Gpu(0, "NVIDIA H200", "9.0")


def test_libraries_are_found_in_the_loaders_cache_and_in_its_path(tmp_path: Path):
    empty, full = tmp_path / "empty.cache", tmp_path / "full.cache"
    empty.write_bytes(b"libm.so.6\0")
    full.write_bytes(b"\0libnvinfer.so.10\0/usr/lib/libnvinfer.so.10\0")
    (tmp_path / "libnvinfer.so.11").touch()
    assert not has_libraries(environ={}, loader_cache=empty)
    assert has_libraries(environ={}, loader_cache=full)
    assert has_libraries(environ={"LD_LIBRARY_PATH": f"/nowhere:{tmp_path}"}, loader_cache=empty)


def _site(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def _version_seen_with(site: Path) -> str:
    code = (
        "import sys; from tasks.machine.tensorrt_install import tensorrt_version\n"
        "print(tensorrt_version(), 'tensorrt' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{site}:{ROOT}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_bindings_without_libraries_do_not_count(tmp_path: Path):
    site = _site(tmp_path, {"tensorrt/__init__.py": '__version__ = "11.4.0.106"\n'})
    assert _version_seen_with(site) == "None False"


def test_an_installed_tensorrt_is_recognised_without_importing_it(tmp_path: Path):
    files = {"tensorrt/__init__.py": "raise RuntimeError('imported')\n", "tensorrt_libs/__init__.py": ""}
    metadata = {"tensorrt-10.13.3.9.dist-info/METADATA": "Metadata-Version: 2.1\nName: tensorrt\nVersion: 10.13.3.9\n"}
    assert _version_seen_with(_site(tmp_path, files | metadata)) == "10.13.3.9 False"


def test_the_version_of_a_tensorrt_without_metadata_is_read_from_its_source(tmp_path: Path):
    files = {"tensorrt/__init__.py": 'x = 1\n__version__ = "10.9.0"\n', "tensorrt_libs/__init__.py": ""}
    assert _version_seen_with(_site(tmp_path, files)) == "10.9.0 False"


@pytest.fixture
def ready(monkeypatch):
    """A machine on which nothing keeps a plan from being built and run."""
    monkeypatch.setattr(tensorrt_install, "gpus", lambda: [GPU])
    monkeypatch.setattr(tensorrt_install, "installed_gpus", lambda: (GPU,))
    monkeypatch.setattr(tensorrt_install, "tensorrt_version", lambda: "10.13.3")
    monkeypatch.setattr(tensorrt_install.metadata, "version", lambda name: "2.13.0+cu130")
    return monkeypatch


def test_a_machine_with_gpu_tensorrt_and_cuda_has_no_obstacle(ready):
    assert build_obstacle() is None
    assert runtime_obstacle() is None


def test_a_machine_without_gpu_can_neither_build_nor_run(ready):
    ready.setattr(tensorrt_install, "gpus", list)
    ready.setattr(tensorrt_install, "installed_gpus", tuple)
    reason, remedy = build_obstacle() or ("", "")
    assert "no NVIDIA GPU" in reason
    assert remedy
    assert runtime_obstacle() == build_obstacle()


def test_gpus_that_are_hidden_name_the_variable_that_hides_them(ready):
    ready.setattr(tensorrt_install, "gpus", list)
    assert all("CUDA_VISIBLE_DEVICES" in text for text in build_obstacle() or ("",))


@pytest.mark.parametrize(("bindings", "reason"), [(True, "without its libraries"), (False, "not installed")])
def test_a_missing_tensorrt_is_installed_by_the_extra(ready, bindings, reason):
    ready.setattr(tensorrt_install, "tensorrt_version", lambda: None)
    ready.setattr(tensorrt_install.util, "find_spec", lambda name: bindings or None)
    obstacle = build_obstacle() or ("", "")
    assert reason in obstacle[0]
    assert "voxkiln[tensorrt]" in obstacle[1]


def test_a_pytorch_without_cuda_can_build_plans_but_not_run_them(ready):
    ready.setattr(tensorrt_install.metadata, "version", lambda name: "2.13.0+cpu")
    assert build_obstacle() is None
    assert "PyTorch" in (runtime_obstacle() or ("",))[0]
