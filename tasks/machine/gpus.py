"""Which NVIDIA GPUs a CUDA program started now would see, found without importing torch and without starting CUDA.

The driver's management library (NVML) answers in milliseconds and creates no CUDA context, so that the light floor can
afford it and may fork afterwards.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

DRIVER_LIBRARY = "libnvidia-ml.so.1"


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver describes it.

    Attributes:
        index: position in PCI bus order.
        compute_capability: "9.0" for instance.
    """

    index: int
    name: str
    compute_capability: str
    driver: str = ""
    uuid: str = ""

    @property
    def slug(self) -> str:
        """The name for file names: "NVIDIA H200" of compute capability 9.0 -> "h200-sm90"."""
        name = re.sub(r"[^a-z0-9]+", "-", self.name.lower().removeprefix("nvidia")).strip("-")
        return f"{name}-sm{self.compute_capability.replace('.', '')}"


def gpus(*, environ: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The GPUs a CUDA program started now would see, in its order.

    The driver numbers GPUs by bus, CUDA by speed unless CUDA_DEVICE_ORDER=PCI_BUS_ID. The worker sets that, so on a
    machine with unlike GPUs an index in CUDA_VISIBLE_DEVICES means the same here and where a plan is built.
    """
    return visible(installed_gpus(), environ.get("CUDA_VISIBLE_DEVICES"))


@cache
def installed_gpus() -> tuple[Gpu, ...]:
    """Every GPU of the machine (or container) in PCI bus order; empty if there is no driver or it does not answer."""
    return tuple(_from_driver()) if has_driver() else ()


def has_driver() -> bool:
    """Whether the dynamic loader finds the driver's library.

    Importing pynvml takes about 25 ms. Trying to load the library as pynvml would takes 3 ms, nearly all for importing
    ctypes, and unlike a search for device files it cannot disagree with pynvml: the driver makes those when it is first
    used.
    """
    import ctypes

    try:
        ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return False
    return True


def _from_driver() -> list[Gpu]:
    import pynvml

    found = []
    with contextlib.suppress(pynvml.NVMLError):  # the library without its kernel module, or without device files
        pynvml.nvmlInit()
        try:
            driver = pynvml.nvmlSystemGetDriverVersion()
            for index in range(pynvml.nvmlDeviceGetCount()):
                with contextlib.suppress(pynvml.NVMLError):  # a GPU that has fallen off the bus; the others still work
                    found.append(_describe(pynvml.nvmlDeviceGetHandleByIndex(index), index, driver))
        finally:
            pynvml.nvmlShutdown()
    return found


def _describe(handle: object, index: int, driver: str) -> Gpu:
    import pynvml

    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(index, pynvml.nvmlDeviceGetName(handle), f"{major}.{minor}", driver, pynvml.nvmlDeviceGetUUID(handle))


def visible(installed: Iterable[Gpu], setting: str | None) -> list[Gpu]:
    """Apply CUDA_VISIBLE_DEVICES as CUDA does: indices or UUID prefixes; the first one without a match ends the list.

    A slice of a GPU ("MIG-...") is not resolved: it matches nothing here, so plans are not built for slices.
    """
    everything = list(installed)
    if setting is None:
        return everything
    chosen: list[Gpu] = []
    for word in setting.split(","):
        match = _find(word.strip(), everything)
        if match is None or match in chosen:
            break
        chosen.append(match)
    return chosen


def _find(word: str, installed: list[Gpu]) -> Gpu | None:
    if word.isdigit():
        return next((gpu for gpu in installed if gpu.index == int(word)), None)
    if word.startswith("GPU-"):
        return next((gpu for gpu in installed if gpu.uuid.startswith(word)), None)
    return None
