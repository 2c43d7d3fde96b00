"""The `voxkiln` command: doit with the tasks of this package, where it is installed without its checkout."""

import sys
from typing import Any

from doit.cmd_base import NamespaceTaskLoader
from doit.doit_cmd import DoitMain

from tasks.workflow.declare import Workflow


class TaskLoader(NamespaceTaskLoader):  # type: ignore[misc]
    """Loads what dodo.py would declare; called when doit has taken the settings from its command line."""

    def setup(self, opt_values: dict[str, Any]) -> None:
        workflow = Workflow.from_command_line()
        self.namespace = {"DOIT_CONFIG": workflow.doit_config(), **workflow.task_creators()}


def main() -> int:
    exit_code: int = DoitMain(TaskLoader()).run(sys.argv[1:])
    return exit_code
