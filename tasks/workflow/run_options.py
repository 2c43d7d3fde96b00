"""The options of `doit run`, which doit hands neither to tasks nor to reporters: read as doit reads them."""

import contextlib
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from doit.cmd_base import DodoTaskLoader
from doit.cmd_run import Run
from doit.cmdparse import CmdOption, CmdParse, CmdParseError
from doit.doit_cmd import DoitMain

from tasks.errors import UserError


@cache
def run_options() -> Mapping[str, Any]:
    """The options given on the command line by doit's names (`always`, `num_process`), none of another command's."""
    command, words = _command_line()
    if command != Run.get_name():
        return {}
    parser = _parser(Run.base_options, DodoTaskLoader.cmd_options, Run.cmd_options)
    try:
        return dict(parser.parse_only(words)[0])
    except CmdParseError:
        return {}  # doit itself has refused them


def is_run() -> bool:
    """Whether doit was told to run tasks, not to list or explain them."""
    return bool(_command_line()[0] == Run.get_name())


def refuse_processes() -> None:
    """Steps run in processes of their own; doit's would know nothing of how they went.

    Raises:
        UserError: doit was told to run tasks in processes.
    """
    if run_options().get("par_type") == "process" and run_options().get("num_process"):
        remedy = "Leave the option out; each step runs in a process of its own"
        raise UserError("steps are run side by side by threads only", where="-P process", remedy=remedy)


def _command_line() -> tuple[str, list[str]]:
    """doit's command, and the words after it that are no settings."""
    words = sys.argv[1:]
    with contextlib.suppress(CmdParseError):  # there are others, so that no command is named
        _, words = _parser(DodoTaskLoader.cmd_options).parse_only(words)
    words = [word for word in words if word.startswith("-") or "=" not in word]
    commands = {command.get_name() for command in DoitMain.DOIT_CMDS}
    return (words[0], words[1:]) if words and words[0] in commands else (Run.get_name(), words)


def _parser(*options: tuple[dict[str, Any], ...]) -> CmdParse:
    return CmdParse([CmdOption(one) for some in options for one in some])
