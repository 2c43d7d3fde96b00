"""Kernel timings kept between builds: the second build of a similar plan takes a fraction of the time.

One file per TensorRT version and GPU, for a cache of another one is of no use. It changes how long a build takes and
never what is asked of it, nor whether the build succeeds.
"""

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
        content = _read(self.path)
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
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock"):
                if others := config.create_timing_cache(_read(self.path)):
                    cache.combine(others, False)
                _replace(self.path, bytes(cache.serialize()))
        except OSError as problem:
            self.state += f", but it cannot be kept: {problem.strerror}"


def _read(path: Path) -> bytes:
    """What earlier builds left; a file that cannot be read costs time and no build."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _give(config: Any, content: bytes) -> bool:
    cache = config.create_timing_cache(content)
    return cache is not None and config.set_timing_cache(cache, False)


def _replace(path: Path, content: bytes) -> None:
    """By rename; under the file's lock, so the temporary name is nobody else's."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
