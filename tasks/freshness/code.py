"""The code that an action uses: which modules that is, observed while it runs, and their digests.

As a compiler writes down the headers it has read: what an action imported this time is what a change of code can
concern. Whatever would make it import something else (an edited module, a parameter, an input) changes the key anyway.
"""

import os.path
import site
import sys
import sysconfig
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from types import ModuleType

from tasks.freshness.digests import Digests
from tasks.objects import find_source

# Rooms that carry a step out or report about it; what they do never reaches the bytes of an artifact.
HOUSE_KEEPING = (
    "tasks.errors", "tasks.job", "tasks.objects", "tasks.paths", "tasks.plain_data", "tasks.progress",
    "tasks.cache", "tasks.child", "tasks.freshness", "tasks.machine", "tasks.pipeline", "tasks.workflow",
)  # fmt: skip
PROJECT = __name__.partition(".")[0]
EDITED = "edited while the step ran"  # no digest: the next decision finds that the code has changed


def used_modules(action: str, *, before: Collection[str], named: Iterable[str], digests: Digests) -> list[str]:
    """The modules of this project and of the user that an action has used, once it has run in this process.

    With them those that it has looked for in vain, and packages without code: both count as soon as they have some.

    Args:
        action: ``module:function``.
        before: names of the modules that were loaded when it began. One of these counts if the action's modules
            import it or it is among `named`: a warm process has loaded more than an action uses.
        named: modules of objects that were loaded by name. Their packages are the user's own, also where they are
            installed beside the libraries.
    """
    packages = {PROJECT, *(name.partition(".")[0] for name in (action.partition(":")[0], *named))}
    loaded = [(name, module) for name, module in sys.modules.items() if not _is_house_keeping(name)]
    own = {name: path for name, module in loaded if (path := _own_file(name, module, packages))}
    waiting = {action.partition(":")[0], *named, *(own.keys() - set(before))} & own.keys()
    found: set[str] = set()
    absent: set[str] = set()
    while waiting:
        name = waiting.pop()
        found.add(name)
        place = _place(name)
        package = place[1] if place else name.rpartition(".")[0]
        imports = set(digests.of_source(own[name], package=package)[1])
        waiting |= (imports | _parents(name)) & own.keys() - found
        absent |= _parents(name) - own.keys() | {module for module in imports if _is_absent(module, name)}
    return sorted(found | absent)


def _is_absent(module: str, importer: str) -> bool:
    """Whether an import of the importer's own package found nothing: as soon as the module exists, it will be used."""
    package, _, name = module.rpartition(".")
    parent = sys.modules.get(package)
    if parent is None or module in sys.modules or hasattr(parent, name):
        return False
    return module.partition(".")[0] == importer.partition(".")[0] and find_source(module) is None


def code_digests(modules: Iterable[str], digests: Digests, *, newest: float | None = None) -> dict[str, str]:
    """Digests of the modules as their files are now; a module without a file has an empty one.

    A module's digest is that of its syntax tree, and that of the JSON file of its name beside it, a table of its own.

    Args:
        newest: files changed since this time (seconds since the epoch) may not be what was imported: EDITED.
    """
    found = {}
    for module in modules:
        if (place := _place(module)) is None:
            found[module] = ""
            continue
        path, package, table = place
        if newest is not None and newest < path.stat().st_ctime:  # also if it was moved there with an older time
            found[module] = EDITED
        else:
            code = digests.of_source(path, package=package)[0]
            found[module] = f"{code} {digests.of_file(table)}" if os.path.isfile(table) else code  # noqa: PTH113
    return found


@cache
def _place(module: str) -> tuple[Path, str, Path] | None:
    """A module's file, what a relative import in it starts from, and where its table would be."""
    path = find_source(module)
    if path is None:
        return None
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return path, package, path.with_suffix(".json")


def _own_file(name: str, module: ModuleType, packages: Collection[str]) -> Path | None:
    """The file of a module in one of the packages or outside of the installed libraries; None for any other."""
    path = Path(getattr(module, "__file__", None) or "")
    if path.suffix != ".py" or not path.is_file():  # torch.classes gives a name that is no path
        return None
    return path if name.partition(".")[0] in packages or not is_library(path) else None


def is_library(path: Path) -> bool:
    """Whether a module's file is of an installed library or of Python itself."""
    return any(path.is_relative_to(folder) for folder in _library_folders())


@cache
def _library_folders() -> tuple[Path, ...]:
    named = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(Path(folder) for folder in {*named, *site.getsitepackages(), site.getusersitepackages()})


def _parents(module: str) -> set[str]:
    parts = module.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts))}


def _is_house_keeping(module: str) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in HOUSE_KEEPING)
