"""Kernel timings kept between builds: the second build of a similar plan takes a fraction of the time.

One file per TensorRT version and GPU, for a cache of another one is of no use. It changes how long a build takes and
never what is asked of it.
"""

import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock


class TimingCache:
    """The cache file of one TensorRT and GPU.

    Args:
        folder: where cache files lie; None: timings are not kept.
    """

    def __init__(self, folder: str | Path | None, *, tensorrt: str, gpu: str) -> None:
        self.path = Path(folder) / f"timing.{tensorrt}.{gpu}.cache" if folder else None
        self.state = "off"

    def load_into(self, config: Any) -> None:
        """Give the builder's config what earlier builds measured; a file that TensorRT refuses is begun anew."""
        if self.path is None:
            return
        content = self.path.read_bytes() if self.path.is_file() else b""
        if content and _give(config, content):
            self.state = "used"
            return
        self.state = "begun anew: TensorRT refused the kept one" if content else "begun"
        _give(config, b"")

    def save_from(self, config: Any) -> None:
        """Keep what this build measured beside what other builds have written since it began."""
        cache = config.get_timing_cache() if self.path else None
        if self.path is None or cache is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            if self.path.is_file() and (others := config.create_timing_cache(self.path.read_bytes())):
                cache.combine(others, False)
            _replace(self.path, bytes(memoryview(cache.serialize())))


def _give(config: Any, content: bytes) -> bool:
    cache = config.create_timing_cache(content)
    return cache is not None and config.set_timing_cache(cache, False)


def _replace(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)
