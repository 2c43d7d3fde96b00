"""Stores kernel timings between builds: the second build of a similar plan takes a fraction of the time.

One file per TensorRT version and GPU, as the timings of another one are useless. The cache changes only how long a
build takes, neither what is requested nor whether the build succeeds.
"""

from pathlib import Path
from typing import Any

from filelock import FileLock


class TimingCache:
    """The cache file of one TensorRT version and GPU.

    Args:
        folder: the folder of the cache files; None: timings are not stored.

    Attributes:
        state: what became of the stored timings, for the receipt.
    """

    def __init__(self, folder: str | Path | None, *, tensorrt: str, gpu: str) -> None:
        self.path = Path(folder) / f"timing.{tensorrt}.{gpu}.cache" if folder else None
        self.state = "off"

    def load_into(self, config: Any) -> None:
        """Load the timings of earlier builds into the builder's config; a file that TensorRT rejects is replaced."""
        if self.path is None:
            return
        content = _read(self.path)
        if content and _set_cache(config, content):
            self.state = "used"
            return
        self.state = "replaced: TensorRT rejected the stored timings" if content else "new"
        _set_cache(config, b"")

    def save_from(self, config: Any) -> None:
        """Store this build's timings, merged with those that other builds have stored since it began."""
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
            self.state += f", not stored: {problem.strerror}"


def _read(path: Path) -> bytes:
    """The stored timings; a file that cannot be read costs time but not the build."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _set_cache(config: Any, content: bytes) -> bool:
    cache = config.create_timing_cache(content)
    return cache is not None and config.set_timing_cache(cache, False)


def _replace(path: Path, content: bytes) -> None:
    """By rename. The file's lock is held, so nobody else uses the temporary name."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
