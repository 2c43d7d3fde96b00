"""Python objects by name, ``module:function``: the one way in which settings, steps and tables name code."""

from importlib import import_module
from typing import Any

_modules: set[str] = set()


def load_object(name: str) -> Any:
    """Import and return an object, ``package.module:function``."""
    module, _, attribute = name.partition(":")
    _modules.add(module)
    return getattr(import_module(module), attribute)


def loaded_modules() -> set[str]:
    """The modules of all objects that were loaded by name in this process."""
    return set(_modules)
