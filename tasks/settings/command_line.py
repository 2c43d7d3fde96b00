"""The settings among the words of doit's command line.

doit takes every word with `=` that does not start with `-` before it reads dodo.py and keeps them in a private
dictionary that `get_var` cannot list. This file is the only one that knows about that; a contract test pins it.
"""

import doit.doit_cmd


def command_line_words() -> list[str]:
    """The `key=value` words of the running doit command, in their order, exactly as typed.

    `~key` cannot be typed (doit would take it for a task name); `~key=` means the same.
    """
    variables: dict[str, str] = doit.doit_cmd._CMDLINE_VARS or {}
    return [f"{name}={value}" if value or not name.startswith("~") else name for name, value in variables.items()]
