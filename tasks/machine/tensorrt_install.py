"""Whether TensorRT is installed and what keeps plans from being built or run here; TensorRT is not imported."""

import os
import re
from collections.abc import Mapping
from importlib import metadata, util
from pathlib import Path

from tasks.machine.gpus import gpus, installed_gpus

LOADER_CACHE = Path("/etc/ld.so.cache")
DISTRIBUTIONS = ("tensorrt", "tensorrt_cu13", "tensorrt_cu12")
INSTALL = "Run pip install 'voxkiln[tensorrt]'"

Obstacle = tuple[str, str]  # the reason and its remedy


def tensorrt_version() -> str | None:
    """The version of a TensorRT that can be imported, or None; it is not imported to find out.

    Importing takes a Python module named `tensorrt` and the shared library `libnvinfer`. The wheels of the bindings
    alone (`tensorrt_cu13_bindings`) contain neither, and the module without its library fails at import, so both are
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
    """NVIDIA's Debian packages and containers have no metadata; the version is read from the module's source."""
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


def build_obstacle() -> Obstacle | None:
    """Why no plan can be built here, or None when one can."""
    if not gpus():
        return _no_gpu(hidden=bool(installed_gpus()))
    if tensorrt_version():
        return None
    if util.find_spec("tensorrt") or util.find_spec("tensorrt_bindings"):
        return "TensorRT's Python bindings are installed without its libraries", INSTALL
    return "TensorRT is not installed", INSTALL


def runtime_obstacle() -> Obstacle | None:
    """Why no plan can be run (verified, served) here: what keeps one from being built, or a PyTorch without CUDA."""
    if obstacle := build_obstacle():
        return obstacle
    if metadata.version("torch").endswith("+cpu"):
        return "this PyTorch is built without CUDA", "Install torch from the CUDA index of download.pytorch.org"
    return None


def _no_gpu(*, hidden: bool) -> Obstacle:
    if hidden:
        return "CUDA_VISIBLE_DEVICES hides every GPU of this machine", "List a GPU in CUDA_VISIBLE_DEVICES or unset it"
    return "no NVIDIA GPU on this machine", "Run this step on the GPU that will serve the plan"
