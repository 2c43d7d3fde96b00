"""Turns what a model YAML describes into our modules, through the table of known classes and nothing else."""

import difflib
import inspect
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

from tasks.errors import UserError
from tasks.models.cosyvoice.hyperyaml.class_map import CLASSES
from tasks.models.cosyvoice.hyperyaml.reader import Call, Document


def build(value: Any, document: Document) -> Any:
    """Build a resolved value of the document: records become objects (``!name:`` a partial), the rest stays.

    Raises:
        UserError: a class that is not in the table, an option that our class does not have, or values of options that
            it cannot be built with.
    """
    if isinstance(value, Call):
        ours = _imported(our_name(value, document))
        arguments = {name: build(argument, document) for name, argument in value.arguments.items()}
        _check_arguments(ours, value, document)
        return partial(ours, **arguments) if value.partial else _built(ours, arguments, value, document)
    if isinstance(value, list):
        return [build(item, document) for item in value]
    if isinstance(value, dict):
        return {key: build(item, document) for key, item in value.items()}
    return value


def our_name(call: Call, document: Document) -> str:
    """``module:Class`` of ours for the class that a record names.

    Raises:
        UserError: the table does not have it.
    """
    if call.target in CLASSES:
        return CLASSES[call.target]
    nearest = difflib.get_close_matches(call.target, CLASSES, n=1)
    hint = f"Did you mean {nearest[0]}? " if nearest else ""
    raise document.problem(
        "a class that is not known here", call.line, call.target, f"{hint}Known: {', '.join(sorted(CLASSES))}"
    )


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _built(ours: Any, arguments: Mapping[str, Any], call: Call, document: Document) -> Any:
    try:
        return ours(**arguments)
    except UserError:
        raise
    except Exception as error:  # PyTorch's layers tell wrong sizes and types in as many ways as there are layers
        plain = {name: value for name, value in call.arguments.items() if not isinstance(value, Call)}
        raise document.problem(
            f"{call.target} cannot be built with these options: {type(error).__name__}: {_first_line(error)}",
            call.line,
            ", ".join(f"{name}={value}" for name, value in plain.items()),
            "Mend them, or give the YAML that was published with the model",
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def _check_arguments(ours: Any, call: Call, document: Document) -> None:
    signature = inspect.signature(ours)
    try:
        (signature.bind_partial if call.partial else signature.bind)(**call.arguments)
    except TypeError as error:
        known = ", ".join(signature.parameters)
        raise document.problem(
            f"options that {call.target} does not take: {error}",
            call.line,
            ", ".join(call.arguments),
            f"It has {known}",
        ) from error
