"""Builds the objects that a model YAML describes; only classes in the table of known classes can be built."""

import difflib
import inspect
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

from tasks.errors import UserError, reason
from tasks.models.cosyvoice.hyperyaml.class_map import CLASSES
from tasks.models.cosyvoice.hyperyaml.document import Document
from tasks.models.cosyvoice.hyperyaml.option_types import wrong_options
from tasks.models.cosyvoice.hyperyaml.records import Call, quoted


def build(value: Any, document: Document) -> Any:
    """Build a resolved value: ``!new:`` becomes an object, ``!name:`` a partial; other values are returned unchanged.

    Raises:
        UserError: a class is not in the table, does not have an option, or cannot be built with the given values.
    """
    if isinstance(value, Call):
        module, _, attribute = local_class(value, document).partition(":")
        constructor = getattr(import_module(module), attribute)
        _check_arguments(constructor, value, document)
        arguments = {name: build(argument, document) for name, argument in value.arguments.items()}
        if value.partial:
            return partial(constructor, **arguments)
        return _construct(constructor, arguments, value, document)
    if isinstance(value, list):
        return [build(item, document) for item in value]
    if isinstance(value, dict):
        return {key: build(item, document) for key, item in value.items()}
    return value


def local_class(call: Call, document: Document) -> str:
    """The local ``module:Class`` for the class that a record names.

    Raises:
        UserError: the class is not in the table.
    """
    if call.target in CLASSES:
        return CLASSES[call.target]
    nearest = difflib.get_close_matches(call.target, CLASSES, n=1)
    hint = f"Did you mean {nearest[0]}? " if nearest else ""
    raise document.problem(
        "a class that is not known here", call.line, call.target, f"{hint}Known: {', '.join(sorted(CLASSES))}"
    )


def _construct(constructor: Any, arguments: Mapping[str, Any], call: Call, document: Document) -> Any:
    try:
        return constructor(**arguments)
    except UserError as error:  # a layer does not know which line it is built from
        place = f"{document.path}:{call.line}"
        if error.where.startswith(str(document.path.parent)):
            raise  # another file of the folder, or a line within this one
        where = f"{place}, {error.where}" if error.where else place
        raise UserError(error.what, where=where, value=error.value, remedy=error.remedy) from error
    except Exception as error:  # layers raise many types of exceptions for wrong sizes and types
        plain = {name: value for name, value in call.arguments.items() if not isinstance(value, Call)}
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise _not_built(call, f"{kind}{reason(error)}", plain, document) from error


def _check_arguments(constructor: Any, call: Call, document: Document) -> None:
    signature = inspect.signature(constructor)
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
    for name, wanted in wrong_options(constructor, call.arguments):
        raise _not_built(call, f"{name} must be {wanted}", {name: call.arguments[name]}, document)


def _not_built(call: Call, why: str, options: Mapping[str, Any], document: Document) -> UserError:
    return document.problem(
        f"{call.target} cannot be built with these options: {quoted(why)}",
        call.line,
        ", ".join(f"{name}={value}" for name, value in options.items()),
        "Fix them, or use the original YAML of the model",
    )
