"""voxkiln's tasks: `doit list` shows them, `doit` runs export_all.

The stages are the rows of tasks/pipeline/stages/table.py; groups and commands are in tasks/workflow/declare.py.
"""

from tasks.workflow.interrupts import quiet_interrupts

quiet_interrupts()

from tasks.workflow.declare import Workflow  # noqa: E402  takes a moment, in which Ctrl-C can come

workflow = Workflow.from_command_line()
DOIT_CONFIG = workflow.doit_config()
globals().update(workflow.task_creators())
