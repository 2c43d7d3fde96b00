"""What doit asks before a step: is it up to date, has a file changed? Receipts and content answer, not times."""

import os.path
from dataclasses import dataclass
from pathlib import Path

from doit.dependency import FileChangedChecker

from tasks.errors import UserError
from tasks.freshness.decide import decide
from tasks.freshness.digests import Digests
from tasks.user_files import unreadable
from tasks.workflow.run_options import run_options
from tasks.workflow.step_status import StepStatus


@dataclass
class UpToDate:
    """Answers doit whether a step is up to date; as text, for `doit info`, what has changed."""

    status: StepStatus
    digests: Digests

    def __call__(self) -> bool:
        if run_options() and not self.status.step.receipt.exists():
            _prepare_to_build(self.digests)
        try:
            self.status.decision = decide(self.status.step, self.digests)
        except FileNotFoundError:
            return False  # doit itself reports a file that is not there
        except OSError as error:  # what a step has made beside its outputs cannot be read, for example
            self.status.problem = str(unreadable(Path(error.filename or self.status.step.receipt), error))
            return False
        except UserError as error:
            self.status.problem = str(error)
            return False
        failed = self.status.step.failed_report  # which the action of the step removes
        return self.status.decision.fresh and not (failed and os.path.lexists(failed))

    def __str__(self) -> str:
        return "; ".join(self.status.decision.reasons) if self.status.decision else "an input is not there yet"


def _prepare_to_build(digests: Digests) -> None:
    """Digesting large inputs and importing what will work on them take about as long."""
    from tasks.child.launcher import warm_up  # what runs with nothing to do need not import

    warm_up(digests.memo.parent)


class ContentChecker(FileChangedChecker):  # type: ignore[misc]
    """doit's view of a file dependency: its content, so that a touched file is not a changed one."""

    def __init__(self, digests: Digests) -> None:
        self._digests = digests

    def check_modified(self, file_path: str, file_stat: os.stat_result, state: str) -> bool:
        return self._digests.of_file(Path(file_path)) != state

    def get_state(self, dep: str, current_state: str | None) -> str | None:
        try:
            digest = self._digests.of_file(Path(dep))
        except OSError:  # removed just now: doit then knows nothing of it
            return None
        return None if digest == current_state else digest
