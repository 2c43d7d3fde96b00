"""Imports of own code from its source, never from cached bytecode.

Python takes cached bytecode for that of a source of the same size and modification time. A receipt has the digest of
the source; where times are set, as in images that are built to be reproducible, the bytecode can be that of another.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from tasks.freshness.code import is_library


class _FromSource(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType | None:
        return self.source_to_code(self.get_data(self.path), self.path)


class _Finder:
    """Finds what the other finders find, and lets own modules be loaded from their source."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        others = [finder for finder in sys.meta_path if finder is not cls]
        spec = next((spec for finder in others if (spec := finder.find_spec(name, path, target))), None)
        if spec and type(spec.loader) is SourceFileLoader and not is_library(Path(spec.loader.path)):
            spec.loader = _FromSource(spec.loader.name, spec.loader.path)
        return spec


def import_own_code_from_source() -> None:
    """For all imports of this process from now on."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
