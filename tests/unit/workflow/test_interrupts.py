"""Ctrl-C while the libraries are still being imported ends as quietly as later."""

import os
import signal
import subprocess
import sys

import pytest

from tests.support.project import HANGS_AFTER_SECONDS, ROOT

INTERRUPTED_AT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let jobs in the background ignore it

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
"""
COMMANDS = {"dodo.py": "import dodo", "voxkiln": "from tasks.workflow.command import main; main()"}


@pytest.mark.parametrize("module", ["hydra", "doit", "yaml", "tasks.workflow.declare"])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupt_during_an_import_has_no_traceback_and_the_usual_exit_code(command: str, module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT + COMMANDS[command], module, "list"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": os.devnull},  # so that Hydra is imported
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS_AFTER_SECONDS,
    )
    assert done.returncode == -signal.SIGINT  # a shell calls it 130
    assert done.stderr == "\ninterrupted; finished steps are kept, the same command continues\n"
