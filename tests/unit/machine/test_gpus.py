"""GPUs and TensorRT are found from what the driver and the file system say, and never by importing anything heavy."""

# ruff: noqa: N802  (the driver chose the names)
import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.machine import gpus as devices
from tasks.machine import nvml
from tasks.machine.gpus import Gpu

TWO = [Gpu(0, "NVIDIA H200", "9.0", "580.65.06", "GPU-aaaa-1"), Gpu(1, "NVIDIA L4", "8.9", "580.65.06", "GPU-bbbb-2")]


class FakeDriver:
    """The management library of a machine with the given GPUs; status 999 where `fails` names the call."""

    def __init__(self, cards: list[Gpu], *, fails: str = "") -> None:
        self.cards, self.fails, self.shut_down = cards, fails, False

    def __getattr__(self, name: str):
        return (lambda *arguments: 999) if name == self.fails else getattr(self, f"_{name}")

    def _nvmlInit_v2(self) -> int:
        return 0

    def _nvmlShutdown(self) -> int:
        self.shut_down = True
        return 0

    def _nvmlSystemGetDriverVersion(self, buffer, length) -> int:
        buffer.value = self.cards[0].driver.encode()
        return 0

    def _nvmlDeviceGetCount_v2(self, count) -> int:
        count._obj.value = len(self.cards)
        return 0

    def _nvmlDeviceGetHandleByIndex_v2(self, index, handle) -> int:
        handle._obj.value = index.value + 1
        return 0

    def _nvmlDeviceGetName(self, handle, buffer, length) -> int:
        buffer.value = self.cards[handle.value - 1].name.encode()
        return 0

    def _nvmlDeviceGetUUID(self, handle, buffer, length) -> int:
        buffer.value = self.cards[handle.value - 1].uuid.encode()
        return 0

    def _nvmlDeviceGetCudaComputeCapability(self, handle, major, minor) -> int:
        capability = self.cards[handle.value - 1].compute_capability.split(".")
        major._obj.value, minor._obj.value = int(capability[0]), int(capability[1])
        return 0


def test_the_driver_names_every_gpu_and_is_let_go():
    driver = FakeDriver(TWO)
    assert [Gpu(**facts) for facts in nvml.describe(driver)] == TWO
    assert driver.shut_down


def test_a_driver_that_does_not_start_means_no_gpu():
    assert nvml.describe(FakeDriver(TWO, fails="nvmlInit_v2")) == []


def test_a_capability_the_driver_refuses_to_tell_is_left_empty():
    driver = FakeDriver(TWO, fails="nvmlDeviceGetCudaComputeCapability")
    assert [facts["compute_capability"] for facts in nvml.describe(driver)] == ["", ""]


def test_a_machine_without_the_driver_has_no_library():
    try:
        ctypes.CDLL(nvml.LIBRARY)
    except OSError:
        assert nvml.load() is None
    else:
        pytest.skip("this machine has the driver")


def test_the_tool_is_asked_when_the_library_is_silent():
    rows = "0, NVIDIA H200, 9.0, 580.65.06, GPU-aaaa-1\n1, NVIDIA L4, 8.9, 580.65.06, GPU-bbbb-2\n"
    assert devices.first_answer((list, lambda: devices.parse_tool(rows))) == tuple(TWO)


def test_a_tool_that_complains_gives_no_gpu():
    assert devices.parse_tool("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n") == []


def test_proc_tells_name_uuid_and_driver(tmp_path: Path):
    card = tmp_path / "gpus/0000:01:00.0/information"
    card.parent.mkdir(parents=True)
    card.write_text(
        "Model: \t\t NVIDIA GeForce RTX 4090\nIRQ:   \t\t 92\nGPU UUID: \t GPU-cc\nBus Location: \t 0000:01:00.0\n"
    )
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26\nGCC version: 12\n"
    )
    assert devices.parse_proc(tmp_path) == [Gpu(0, "NVIDIA GeForce RTX 4090", driver="570.124.06", uuid="GPU-cc")]


@pytest.mark.parametrize(
    ("setting", "indices"),
    [(None, [0, 1]), ("", []), ("-1", []), ("1", [1]), ("1,0", [1, 0]), ("0,7,1", [0]), ("GPU-bbbb", [1])],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(setting, indices):
    assert [gpu.index for gpu in devices.visible(TWO, setting)] == indices


@pytest.mark.parametrize(
    ("gpu", "slug"),
    [
        (Gpu(0, "NVIDIA H200", "9.0"), "h200-sm90"),
        (Gpu(0, "NVIDIA A100-SXM4-80GB", "8.0"), "a100-sxm4-80gb-sm80"),
        (Gpu(0, "NVIDIA GeForce RTX 4090", "8.9"), "geforce-rtx-4090-sm89"),
        (Gpu(0, "Tesla T4"), "tesla-t4"),
    ],
)
def test_a_gpus_slug_is_fit_for_a_file_name(gpu: Gpu, slug: str):
    assert gpu.slug == slug


def test_libraries_are_found_in_the_loaders_cache_and_in_its_path(tmp_path: Path):
    empty, full = tmp_path / "empty.cache", tmp_path / "full.cache"
    empty.write_bytes(b"libm.so.6\0")
    full.write_bytes(b"\0libnvinfer.so.10\0/usr/lib/libnvinfer.so.10\0")
    (tmp_path / "libnvinfer.so.11").touch()
    assert not devices.has_libraries(environ={}, loader_cache=empty)
    assert devices.has_libraries(environ={}, loader_cache=full)
    assert devices.has_libraries(environ={"LD_LIBRARY_PATH": f"/nowhere:{tmp_path}"}, loader_cache=empty)


def _site(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def _version_seen_with(site: Path) -> str:
    code = "import sys; from tasks import devices; print(devices.tensorrt_version(), 'tensorrt' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{site}:{Path.cwd()}"},
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


def test_a_tensorrt_without_metadata_tells_its_version_in_its_text(tmp_path: Path):
    files = {"tensorrt/__init__.py": 'x = 1\n__version__ = "10.9.0"\n', "tensorrt_libs/__init__.py": ""}
    assert _version_seen_with(_site(tmp_path, files)) == "10.9.0 False"


def test_a_machine_without_gpu_is_told_what_stops_the_plan():
    if devices.gpus():
        pytest.skip("this machine has a GPU")
    reason, remedy = devices.plan_obstacle() or ("", "")
    assert "GPU" in reason
    assert remedy


def test_looking_for_gpus_starts_no_process(monkeypatch):
    def refuse(*arguments, **options):
        pytest.fail(f"{arguments} would cost every run its start")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    devices.installed_gpus.cache_clear()
    devices.plan_obstacle()
