"""Python objects by name: every function that a setting names is written ``module:function``.

Loading one imports its module, which belongs into a child process. Settings are checked without importing anything:
the source is found on the import path and only parsed.
"""

import ast
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from tasks.errors import UserError

NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
# Values of these kinds cannot be called.
LITERALS = (
    ast.Constant, ast.JoinedStr, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.ListComp, ast.SetComp, ast.DictComp,
)  # fmt: skip
Bindings = dict[str, bool]  # name at the top level of a module -> whether its value may be callable

_loaded: set[str] = set()


def load_object(name: str) -> Any:
    """Import ``module:function`` and return the function.

    Raises:
        UserError: the name is malformed, the module cannot be imported, or it has no such callable.
    """
    module_name, _, attribute = name.partition(":")
    if not NAME.fullmatch(name):
        raise UserError("is not of the form module:function", where=name)
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise UserError(
            "cannot be imported",
            where=name,
            value=str(error),
            remedy="Correct the name, or put the folder of its package on PYTHONPATH",
        ) from error
    _loaded.add(module_name)
    found = getattr(module, attribute, None)
    if not callable(found):
        what = "is not callable" if hasattr(module, attribute) else f"the module has no {attribute}"
        raise UserError(what, where=name, value=found, remedy="Correct the name")
    return found


def loaded_modules() -> set[str]:
    """The modules of all objects that were loaded by name in this process."""
    return set(_loaded)


def find_origin(module: str) -> str:
    """The file of a module, found as `find_source` does; empty where there is none."""
    spec = _find(module)
    return "" if isinstance(spec, str) else spec.origin or ""


def find_source(module: str) -> Path | None:
    """The Python file of a module, found without importing it or the packages around it."""
    source = Path(find_origin(module))
    return source if source.suffix == ".py" and source.is_file() else None


def problem_with_object(name: str) -> str:
    """Why `load_object` cannot load ``module:function``, found without importing anything; empty if it can be used.

    What a source file does not show (a name assigned by a call, a compiled module) is taken to be right.
    """
    module, _, attribute = name.partition(":")
    if not NAME.fullmatch(name):
        return "is not of the form module:function"
    spec = _find(module)
    if isinstance(spec, str):
        return f"there is no module {spec}"
    if spec.origin is None:  # a namespace package has no code
        return f"{module} has no {attribute}"
    if (source := find_source(module)) is None:
        return ""
    try:
        tree = ast.parse(source.read_bytes(), str(source))
    except SyntaxError as error:
        return f"{source} cannot be parsed: {error.msg} in line {error.lineno}"
    return _problem_with_binding(_bindings(tree.body), module, attribute)


def _problem_with_binding(bindings: Bindings, module: str, attribute: str) -> str:
    if attribute not in bindings:
        anything = "*" in bindings or "__getattr__" in bindings
        return "" if anything else f"{module} has no {attribute}"
    return "" if bindings[attribute] else f"{attribute} of {module} is not callable"


def _find(module: str) -> ModuleSpec | str:
    """Where a module is; the name of the first package or module on the way to it that does not exist."""
    package = module.rpartition(".")[0]
    if not package:
        found = (finder.find_spec(module, None) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        return next((spec for spec in found if spec), module)
    parent = _find(package)
    if isinstance(parent, str):
        return parent
    return _find_in(parent.submodule_search_locations or (), module) or module


def _find_in(folders: Iterable[str], module: str) -> ModuleSpec | None:
    """A module in one of a package's folders. PathFinder would do, if it did not import packages without __init__."""
    namespace: ModuleSpec | None = None
    for finder in map(pkgutil.get_importer, folders):
        spec = finder.find_spec(module, None) if finder else None
        if spec and spec.loader:
            return spec
        if spec and namespace and namespace.submodule_search_locations is not None:
            namespace.submodule_search_locations += spec.submodule_search_locations or []
        namespace = namespace or spec
    return namespace


def _bindings(body: Iterable[ast.stmt]) -> Bindings:
    """Names that statements bind, also those inside if, try, with and loops; the last binding of a name counts."""
    found: Bindings = {}
    for statement in body:
        found |= dict(_bound(statement))
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for block in ("body", "handlers", "orelse", "finalbody"):
                found |= _bindings(getattr(statement, block, ()))
    return found


def _bound(statement: ast.stmt) -> Iterator[tuple[str, bool]]:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name, True
        case ast.ImportFrom(names=aliases):
            yield from ((alias.asname or alias.name, True) for alias in aliases)
        case ast.Import(names=aliases):  # binds modules
            yield from ((alias.asname or alias.name.partition(".")[0], False) for alias in aliases)
        case ast.Assign(targets=targets, value=value):
            names = (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
            single = all(isinstance(target, ast.Name) for target in targets)
            yield from ((name, not (single and isinstance(value, LITERALS))) for name in names)
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            yield name, not isinstance(value, LITERALS)
