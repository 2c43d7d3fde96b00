"""Which GPUs and which TensorRT are here, found without importing torch or TensorRT and without starting CUDA.

Sources for the GPUs, first one that answers: the driver's management library, the `nvidia-smi` tool, /proc.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path

from tasks.machine import nvml

PROC = Path("/proc/driver/nvidia")
QUERY = "index,name,compute_cap,driver_version,uuid"
LOADER_CACHE = Path("/etc/ld.so.cache")
DISTRIBUTIONS = ("tensorrt", "tensorrt_cu13", "tensorrt_cu12")
NO_TENSORRT = "Run pip install 'voxkiln[tensorrt]'"


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver names it; an empty string is a fact that the source did not tell."""

    index: int
    name: str
    compute_capability: str = ""
    driver: str = ""
    uuid: str = ""

    @property
    def slug(self) -> str:
        """The name for file names: "NVIDIA H200" of compute capability 9.0 -> "h200-sm90"."""
        name = re.sub(r"[^a-z0-9]+", "-", self.name.lower().removeprefix("nvidia")).strip("-")
        return f"{name}-sm{self.compute_capability.replace('.', '')}" if self.compute_capability else name


def gpus(*, environ: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The GPUs a CUDA program started now would see, in its order.

    The driver numbers GPUs by bus, CUDA by speed unless CUDA_DEVICE_ORDER=PCI_BUS_ID. The worker sets that, so on a
    machine with unlike GPUs an index in CUDA_VISIBLE_DEVICES means the same here and where a plan is built.
    """
    return visible(installed_gpus(), environ.get("CUDA_VISIBLE_DEVICES"))


@cache
def installed_gpus() -> tuple[Gpu, ...]:
    """Every GPU of the machine (or container), in PCI bus order."""
    return first_answer((_from_driver, _from_tool, _from_proc))


def first_answer(sources: Iterable[Callable[[], list[Gpu]]]) -> tuple[Gpu, ...]:
    """What the first source that finds a GPU says."""
    return next((tuple(found) for source in sources if (found := source())), ())


def visible(installed: Iterable[Gpu], setting: str | None) -> list[Gpu]:
    """Apply CUDA_VISIBLE_DEVICES as CUDA does: indices or UUID prefixes, ended by the first one that fits nothing.

    A slice of a GPU ("MIG-...") is not resolved: it fits nothing here, so plans are not built for slices.
    """
    everything = list(installed)
    if setting is None:
        return everything
    chosen: list[Gpu] = []
    for word in setting.split(","):
        match = _named(word.strip(), everything)
        if match is None or match in chosen:
            break
        chosen.append(match)
    return chosen


def _named(word: str, installed: list[Gpu]) -> Gpu | None:
    if word.isdigit():
        return next((gpu for gpu in installed if gpu.index == int(word)), None)
    if word.startswith("GPU-"):
        return next((gpu for gpu in installed if gpu.uuid.startswith(word)), None)
    return None


def _from_driver() -> list[Gpu]:
    library = nvml.load()
    return [Gpu(**facts) for facts in nvml.describe(library)] if library else []


def _from_tool() -> list[Gpu]:
    if not (tool := shutil.which("nvidia-smi")):
        return []
    command = [tool, f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_tool(done.stdout) if done.returncode == 0 else []


def parse_tool(text: str) -> list[Gpu]:
    """Rows of `nvidia-smi --query-gpu` (index, name, compute_cap, driver_version, uuid) -> GPUs."""
    rows = ([field.strip() for field in line.split(",")] for line in text.splitlines() if line.count(",") == 4)
    return [Gpu(int(index), name, capability, driver, uuid) for index, name, capability, driver, uuid in rows]


def _from_proc() -> list[Gpu]:
    return parse_proc(PROC)


def parse_proc(folder: Path) -> list[Gpu]:
    """Read the kernel module's /proc folder, which knows names and UUIDs but no compute capability."""
    cards = [dict(_fields(path.read_text())) for path in sorted(folder.glob("gpus/*/information"))]
    version = folder / "version"
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", version.read_text()) if version.is_file() else None
    driver = found.group() if found else ""
    return [
        Gpu(index, card["Model"], driver=driver, uuid=card.get("GPU UUID", ""))
        for index, card in enumerate(cards)
        if "Model" in card
    ]


def _fields(text: str) -> list[tuple[str, str]]:
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return [(key.strip(), value.strip()) for key, _, value in pairs]


def tensorrt_version() -> str | None:
    """The version of a TensorRT that can be imported, or None; it is not imported to find out.

    Importing takes a Python module named `tensorrt` and the shared library `libnvinfer`. The wheels of the bindings
    alone (`tensorrt_cu13_bindings`) bring neither, and the module without its library fails at import, so both are
    looked for: the module's own file, and the library in the `tensorrt_libs` wheel, in LD_LIBRARY_PATH or in the
    dynamic loader's cache.
    """
    spec = util.find_spec("tensorrt")
    if spec is None or not spec.origin or not has_libraries():
        return None
    return _installed_version() or _version_in(Path(spec.origin))


def _installed_version() -> str | None:
    for name in DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _version_in(module: Path) -> str | None:
    """NVIDIA's Debian packages and containers have no metadata; the module's text says its version."""
    found = re.search(r'^__version__ *= *"([^"]+)"', module.read_text(errors="replace"), re.MULTILINE)
    return found.group(1) if found else None


def has_libraries(*, environ: Mapping[str, str] = os.environ, loader_cache: Path = LOADER_CACHE) -> bool:
    """Whether the dynamic loader or the libraries' wheel can supply libnvinfer."""
    if util.find_spec("tensorrt_libs"):
        return True
    folders = filter(None, environ.get("LD_LIBRARY_PATH", "").split(os.pathsep))
    if any(next(Path(folder).glob("libnvinfer.so*"), None) for folder in folders):
        return True
    return loader_cache.is_file() and b"libnvinfer.so" in loader_cache.read_bytes()


def plan_obstacle() -> tuple[str, str] | None:
    """Why no plan can be built here and what to do about it, or None when one can."""
    if not gpus():
        return _no_gpu(hidden=bool(installed_gpus()))
    if tensorrt_version():
        return None
    if util.find_spec("tensorrt") or util.find_spec("tensorrt_bindings"):
        return "TensorRT's Python bindings are installed without its libraries", NO_TENSORRT
    return "TensorRT is not installed", NO_TENSORRT


def run_obstacle() -> tuple[str, str] | None:
    """Why no plan can be run (verified, served) here: what stops a build, or a PyTorch without CUDA."""
    if obstacle := plan_obstacle():
        return obstacle
    if metadata.version("torch").endswith("+cpu"):
        return "this PyTorch is built without CUDA", "Install torch from the CUDA index of download.pytorch.org"
    return None


def _no_gpu(*, hidden: bool) -> tuple[str, str]:
    if hidden:
        return "CUDA_VISIBLE_DEVICES hides every GPU of this machine", "Name a GPU in CUDA_VISIBLE_DEVICES or unset it"
    return "no NVIDIA GPU on this machine", "Run this step on the GPU that will serve the plan"
