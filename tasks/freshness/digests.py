"""Digests of files and of code, remembered between runs.

Hashing gigabytes on every run would cost more than the run; a digest is remembered together with the file's size,
times and inode, and computed again only when one of them has changed.
"""

import ast
import hashlib
import json
import threading
import time
from pathlib import Path
from typing import Any, cast

from tasks.freshness.receipt import write_atomically
from tasks.plain_data import read_json_object

# A file written again within the clock's granularity keeps its times: digests of files this young are not remembered.
RACY_SECONDS = 0.05


def sha256(path: Path) -> str:
    """The file's SHA-256 as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Digests:
    """A memo of digests in one JSON file; losing it costs time and nothing else."""

    def __init__(self, memo: Path) -> None:
        self._path = memo
        self._lock = threading.Lock()
        self._entries: dict[str, Any] = _read(memo)
        self._changed = False

    def of_file(self, path: Path) -> str:
        """SHA-256 of a file's bytes."""
        return cast(str, self._remembered(path, "bytes", sha256))

    def of_source(self, path: Path) -> tuple[str, list[str]]:
        """Digest of a Python file's code, without comments and docstrings, and the project modules it imports."""
        digest, imports = self._remembered(path, "code", _read_source)
        return digest, imports

    def save(self) -> None:
        """Write what was learned, if anything; failing to is no loss."""
        with self._lock:
            if self._changed:
                self._changed = False
                write_atomically(self._path, json.dumps(self._entries))

    def _remembered(self, path: Path, kind: str, compute: Any) -> Any:
        key, now = f"{kind}:{path}", time.time()
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        entry = self._entries.get(key)
        if entry and entry[0] == stamp:
            return entry[1]
        value = compute(path)
        with self._lock:
            if now - stat.st_ctime > RACY_SECONDS:
                self._entries[key] = [stamp, value]
            else:
                self._entries.pop(key, None)
            self._changed = True
        return value


def _read(memo: Path) -> dict[str, Any]:
    return {key: entry for key, entry in read_json_object(memo).items() if isinstance(entry, list) and len(entry) == 2}


def _read_source(path: Path) -> tuple[str, list[str]]:
    tree = ast.parse(path.read_text(), str(path))
    imports = sorted(set(_imports(tree)))
    _drop_docstrings(tree)
    # unparse rather than dump: the text of a syntax tree is the same for every Python that can read it
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest(), imports


def _imports(tree: ast.AST) -> list[str]:
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in found if name.startswith("tasks.")]


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
