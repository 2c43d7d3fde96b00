"""GPUs are found through the driver's library, and only where it is installed; CUDA_VISIBLE_DEVICES is honoured."""

import subprocess
import sys
from pathlib import Path
from unittest.mock import create_autospec

import pynvml
import pytest

from tasks.machine import gpus as devices
from tasks.machine.gpus import Gpu

ROOT = Path(__file__).resolve().parents[3]
TWO = [Gpu(0, "NVIDIA H200", "9.0", "580.65.06", "GPU-aaaa-1"), Gpu(1, "NVIDIA L4", "8.9", "580.65.06", "GPU-bbbb-2")]


@pytest.fixture
def driver(monkeypatch):
    """pynvml with the answers of a machine that has two GPUs; a name or argument that pynvml lacks is refused."""
    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: TWO[0].driver,
        "nvmlDeviceGetCount": lambda: len(TWO),
        "nvmlDeviceGetHandleByIndex": lambda index: TWO[index],  # a handle is whatever pynvml gives out
        "nvmlDeviceGetName": lambda gpu: gpu.name,
        "nvmlDeviceGetUUID": lambda gpu: gpu.uuid,
        "nvmlDeviceGetCudaComputeCapability": lambda gpu: tuple(map(int, gpu.compute_capability.split("."))),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, create_autospec(getattr(pynvml, name), side_effect=answer))
    monkeypatch.setattr(devices, "has_driver", lambda: True)
    devices.installed_gpus.cache_clear()
    yield pynvml
    devices.installed_gpus.cache_clear()


def _error(code: str) -> pynvml.NVMLError:
    return pynvml.NVMLError(getattr(pynvml, f"NVML_ERROR_{code}"))


def test_every_gpu_is_listed_in_the_drivers_order(driver):
    assert devices.gpus(environ={}) == TWO
    assert driver.nvmlShutdown.call_count == 1


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlSystemGetDriverVersion", "nvmlDeviceGetCount"])
def test_a_driver_that_does_not_answer_means_no_gpu(driver, function):
    getattr(driver, function).side_effect = _error("DRIVER_NOT_LOADED")
    assert devices.gpus(environ={}) == []
    assert driver.nvmlShutdown.call_count == (function != "nvmlInit")


def test_a_gpu_that_is_lost_does_not_hide_the_others(driver):
    driver.nvmlDeviceGetHandleByIndex.side_effect = [_error("GPU_IS_LOST"), TWO[1]]
    assert devices.gpus(environ={}) == TWO[1:]


def test_without_the_drivers_library_pynvml_is_not_imported():
    if devices.has_driver():
        pytest.skip("this machine has the driver")
    code = "import sys; from tasks.machine import gpus; print(gpus.gpus(), 'pynvml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"


def test_the_library_looked_for_is_the_one_pynvml_loads():
    assert devices.DRIVER_LIBRARY in pynvml._LoadNvmlLibrary.__code__.co_consts


@pytest.mark.parametrize(
    ("setting", "indices"),
    [(None, [0, 1]), ("", []), ("-1", []), ("1", [1]), ("1,0", [1, 0]), ("0,7,1", [0]), ("GPU-bbbb", [1]),
     ("MIG-cccc", []), ("1,1", [1])],
)  # fmt: skip
def test_cuda_visible_devices_is_read_as_cuda_reads_it(setting, indices):
    assert [gpu.index for gpu in devices.visible(TWO, setting)] == indices


@pytest.mark.parametrize(
    ("gpu", "slug"),
    [
        (Gpu(0, "NVIDIA H200", "9.0"), "h200-sm90"),
        (Gpu(0, "NVIDIA A100-SXM4-80GB", "8.0"), "a100-sxm4-80gb-sm80"),
        (Gpu(0, "NVIDIA GeForce RTX 4090", "8.9"), "geforce-rtx-4090-sm89"),
        (Gpu(0, "Tesla T4", "7.5"), "tesla-t4-sm75"),
    ],
)
def test_a_gpus_slug_is_fit_for_a_file_name(gpu: Gpu, slug: str):
    assert gpu.slug == slug


def test_looking_for_gpus_starts_no_process(monkeypatch):
    def refuse(*arguments, **options):
        pytest.fail(f"{arguments} would cost every run its start")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    devices.installed_gpus.cache_clear()
    devices.gpus()
