"""Digests of files and of code, remembered between runs.

Hashing gigabytes on every run would cost more than the run; a digest is remembered together with the file's size,
times and inode, and computed again only when one of them has changed.
"""

import ast
import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from importlib.util import resolve_name
from os import stat_result
from pathlib import Path
from typing import Any, cast

from tasks.errors import UserError, reason
from tasks.job import available_cores, sha256
from tasks.plain_data import read_json_object, write_atomically

# A file written again within the clock's granularity keeps its times: digests of files this young are not remembered.
RACY_SECONDS = 0.05
LARGE_BYTES = 2**24  # a thread costs less than the digest of such a file
AWAITED = ""  # in the place of a digest that is being computed


class Digests:
    """A memo of digests in one JSON file; losing it costs time and nothing else."""

    def __init__(self, memo: Path) -> None:
        self.memo = memo
        self._lock = threading.Lock()
        self._entries: dict[str, Any] = _read(memo)
        self._changed = False
        self._begun: dict[Path, threading.Event] = {}

    def of_file(self, path: Path) -> str:
        """SHA-256 of a file's bytes."""
        if begun := self._begun.get(path):
            begun.wait()
        return self._of_file(path)

    def begin(self, paths: Iterable[Path]) -> list[Path]:
        """Compute the digests of large files that are not remembered, side by side while the caller goes on.

        Returns:
            The files of which the digests are not known yet; `of_file` waits for them.
        """
        unknown = [path for path in dict.fromkeys(paths) if self._is_large_and_new(path)]
        with self._lock:
            new = [path for path in unknown if path not in self._begun]
            self._begun |= {path: threading.Event() for path in new}
        waiting = iter(new)
        try:
            for _ in range(min(len(new), available_cores())):  # daemons: an interrupted run does not wait for them
                threading.Thread(target=self._work_through, args=(waiting,), daemon=True).start()
        except RuntimeError:  # no thread can be started: what none has begun is digested when it is asked for
            for path in waiting:
                self._begun.pop(path).set()
        return unknown

    def of_part(self, path: Path, records: Collection[str]) -> str:
        """Digest of some records of a model YAML; of its bytes where that is not known."""
        key = f"part:{','.join(records)}:{path}"
        return cast(str, self._remembered(key, path, lambda: _part_digest(path, records)))

    def of_source(self, path: Path, *, package: str) -> tuple[str, Sequence[str]]:
        """Digest of a Python file's code, without comments and docstrings, and the modules that it may import.

        Args:
            package: what its relative imports start from.

        Raises:
            UserError: the file is not Python, while somebody edits it for example.
        """
        digest, imports = self._remembered(f"code:{package}:{path}", path, lambda: _read_source(path, package))
        return digest, imports

    def adopt(self, path: Path, digest: str, *, modified_ns: int) -> None:
        """Remember a digest that the process which wrote a file has computed, unless the file was changed since."""
        stat = path.stat()
        if stat.st_mtime_ns == modified_ns:
            self._remember(f"bytes:{path}", stat, digest)

    def save(self) -> None:
        """Write what was learned, if anything; failing to is no loss."""
        with self._lock:
            if self._changed:
                self._changed = False
                write_atomically(self.memo, json.dumps(self._entries))

    def _of_file(self, path: Path) -> str:
        return cast(str, self._remembered(f"bytes:{path}", path, lambda: sha256(path)))

    def _work_through(self, waiting: Iterator[Path]) -> None:
        for path in waiting:
            with contextlib.suppress(Exception):  # which `of_file` then raises
                self._of_file(path)
            self._begun.pop(path).set()

    def _is_large_and_new(self, path: Path) -> bool:
        now = time.time()
        try:
            stat = path.stat()
        except OSError:  # which `of_file` then raises
            return False
        if stat.st_size < LARGE_BYTES or now - stat.st_ctime <= RACY_SECONDS:
            return False
        return self._entry(f"bytes:{path}", stat) is None

    def _remembered(self, key: str, path: Path, compute: Callable[[], Any]) -> Any:
        now, stat = time.time(), os.stat(path)  # noqa: PTH116 - asked ten thousand times, half the time of Path's
        if entry := self._entry(key, stat):
            return entry[1]
        value = compute()
        if now - stat.st_ctime > RACY_SECONDS:
            self._remember(key, stat, value)
        return value

    def _entry(self, key: str, stat: stat_result) -> Any:
        """What is remembered of this version of a file, beside the stamp of it."""
        entry = self._entries.get(key)
        return entry if entry and entry[0] == _stamp(stat) else None

    def _remember(self, key: str, stat: stat_result, value: Any) -> None:
        with self._lock:
            self._entries[key] = [_stamp(stat), value]
            self._changed = True


def stamps(path: Path) -> list[list[int]]:
    """What differs once a file has been written or replaced, or a link on the way to it, also if by the same again."""
    links = [place for place in (path, *path.parents) if place.is_symlink()]
    return [*(_stamp(link.lstat()) for link in links), _stamp(path.stat())]


def _stamp(stat: stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _read(memo: Path) -> dict[str, Any]:
    return {key: entry for key, entry in read_json_object(memo).items() if _is_entry(key, entry)}


def _is_entry(key: str, entry: Any) -> bool:
    """Whether an entry is one that was written here; the file may have been edited or damaged."""
    if not isinstance(entry, list) or len(entry) != 2:
        return False
    if not key.startswith("code:"):
        return isinstance(entry[1], str)
    match entry[1]:
        case [str(), [*modules]]:
            return all(isinstance(module, str) for module in modules)
    return False


def _part_digest(path: Path, records: Collection[str]) -> str:
    from tasks.freshness.yaml_part import part_digest  # with PyYAML: 25 ms

    return part_digest(path, records) or sha256(path)


def _read_source(path: Path, package: str) -> tuple[str, list[str]]:
    try:
        tree = _parsed(path)
    except (SyntaxError, ValueError) as error:  # a NUL is a ValueError
        line = getattr(error, "lineno", None)
        where = f"{path}:{line}" if line else str(path)
        what = getattr(error, "msg", None) or reason(error)
        raise UserError("is not valid Python", where=where, value=what, remedy="Correct the code") from None
    imports = sorted(set(_imports(tree, package)))
    _drop_docstrings(tree)
    # unparse rather than dump: the text of a syntax tree is the same for every Python that can read it
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest(), imports


def _parsed(path: Path) -> ast.Module:
    """With the comments on types, which TorchScript compiles by."""
    source = path.read_bytes()
    try:
        return ast.parse(source, str(path), type_comments=True)
    except SyntaxError:  # perhaps only in such a comment, which Python itself does not read
        return ast.parse(source, str(path))


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Names that may be modules: what is imported from a package can be a module in it or an object."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (base := _base(node, package)):
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _base(node: ast.ImportFrom, package: str) -> str:
    """The absolute name of what is imported from; empty where it lies outside of every package."""
    try:
        return resolve_name("." * node.level + (node.module or ""), package)
    except ImportError:
        return ""


def _drop_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
