"""The `voxkiln` command: doit with the tasks of this package, where it is installed without its checkout."""

import sys

from tasks.progress import prepare_streams
from tasks.workflow.interrupts import quiet_interrupts


def main() -> int:
    quiet_interrupts()
    prepare_streams()
    from doit.doit_cmd import DoitMain  # takes a moment, in which Ctrl-C can come

    from tasks.workflow.loader import TaskLoader

    exit_code: int = DoitMain(TaskLoader()).run(sys.argv[1:])
    return exit_code
