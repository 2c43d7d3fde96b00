"""What loads the tasks where doit runs without a dodo.py."""

from typing import Any

from doit.cmd_base import NamespaceTaskLoader

from tasks.workflow.declare import Workflow


class TaskLoader(NamespaceTaskLoader):  # type: ignore[misc]
    """Loads what dodo.py would declare; called when doit has taken the settings from its command line."""

    def setup(self, opt_values: dict[str, Any]) -> None:
        workflow = Workflow.from_command_line()
        self.namespace = {"DOIT_CONFIG": workflow.doit_config(), **workflow.task_creators()}
