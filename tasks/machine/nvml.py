"""What the NVIDIA driver says about the GPUs, through its management library.

Asking the driver costs milliseconds and creates no CUDA context, so the light floor can afford it and may fork later.
"""

import ctypes
from collections.abc import Callable, Iterator
from typing import Any, Protocol

LIBRARY = "libnvidia-ml.so.1"
TEXT_BYTES = 96  # NVML_DEVICE_NAME_V2_BUFFER_SIZE; the UUID and the driver version need less
SUCCESS = 0


class Library(Protocol):
    """The entry points used here; `ctypes.CDLL` has them as attributes, each returning a status (0: success)."""

    def __getattr__(self, name: str) -> Callable[..., int]: ...


def load() -> Library | None:
    """The driver's library, or None where no driver is installed."""
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError:
        return None


def describe(library: Library) -> list[dict[str, Any]]:
    """Every GPU in PCI bus order: index, name, compute capability ("9.0"), driver, uuid.

    A driver that does not answer (no device node in a container, a module that was not loaded) gives an empty list.
    """
    if library.nvmlInit_v2() != SUCCESS:
        return []
    try:
        driver = _text(library.nvmlSystemGetDriverVersion)
        return [{"index": i, "driver": driver, **_describe_one(library, handle)} for i, handle in _handles(library)]
    finally:
        library.nvmlShutdown()


def _handles(library: Library) -> Iterator[tuple[int, ctypes.c_void_p]]:
    count = ctypes.c_uint()
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != SUCCESS:
        return
    for index in range(count.value):
        handle = ctypes.c_void_p()
        if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) == SUCCESS:
            yield index, handle


def _describe_one(library: Library, handle: ctypes.c_void_p) -> dict[str, Any]:
    return {
        "name": _text(library.nvmlDeviceGetName, handle),
        "compute_capability": _compute_capability(library, handle),
        "uuid": _text(library.nvmlDeviceGetUUID, handle),
    }


def _compute_capability(library: Library, handle: ctypes.c_void_p) -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    status = library.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}" if status == SUCCESS else ""


def _text(ask: Callable[..., int], *handle: ctypes.c_void_p) -> str:
    buffer = ctypes.create_string_buffer(TEXT_BYTES)
    return buffer.value.decode(errors="replace") if ask(*handle, buffer, ctypes.c_uint(TEXT_BYTES)) == SUCCESS else ""
