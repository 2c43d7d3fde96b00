"""doit's command-line words `key=value` as Hydra overrides, sweeps written out.

doit takes every word with `=` that does not start with `-` before it reads dodo.py and keeps them in a private
dictionary that `get_var` cannot list. This file is the only one that knows about that; a contract test pins it.
"""

from collections.abc import Iterable
from itertools import product

import doit.doit_cmd
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException

# Settings that are dictionaries with free keys: Hydra would ask for `++` to add one.
OPEN_SETTINGS = ("tensorrt.profile.", "model.checkpoints.")

WRITTEN_OUT = (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP, ValueType.RANGE_SWEEP)


def command_line_words() -> list[str]:
    """The `key=value` words of the running doit command, in their order, exactly as typed.

    `~key` cannot be typed (doit would take it for a task name); `~key=` means the same.
    """
    variables: dict[str, str] = doit.doit_cmd._CMDLINE_VARS or {}
    return [f"{name}={value}" if value or not name.startswith("~") else name for name, value in variables.items()]


def expand(words: Iterable[str]) -> tuple[list[list[str]], list[str]]:
    """One list of plain Hydra overrides for each combination that the sweeps in `words` span.

    Returns:
        The combinations, made of the words that are in Hydra's override grammar, and a problem for each other word.
    """
    choices, problems = [], []
    for word in words:
        try:
            choices.append(_choices(_parse(f"++{word}" if word.startswith(OPEN_SETTINGS) else word)))
        except HydraException as error:
            problems.append(f"{word}: not in Hydra's override grammar: {str(error).splitlines()[0]}")
    return [list(combination) for combination in product(*choices)], problems


def _parse(word: str) -> Override:
    override = OverridesParser.create().parse_override(word)
    if not override.key_or_group:
        raise HydraException("no setting before the equals sign")
    return override


def _choices(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if override.value_type not in WRITTEN_OUT:
        raise HydraException("this sweep does not list its values; write them out: a,b")
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]
