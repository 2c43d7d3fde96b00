"""What doit asks before a step: is it up to date, has a file changed? Receipts and content answer, not times."""

import os.path
from dataclasses import dataclass, replace
from pathlib import Path

from doit.dependency import FileChangedChecker

from tasks.errors import UserError
from tasks.freshness.decide import decide
from tasks.freshness.digests import AWAITED, Digests, stamps
from tasks.pipeline.step import Step
from tasks.user_files import unreadable
from tasks.workflow.run_options import is_run
from tasks.workflow.step_status import StepStatus


@dataclass
class UpToDate:
    """Answers doit whether a step is up to date; as text, for `doit info`, what has changed."""

    status: StepStatus
    digests: Digests

    def __call__(self) -> bool:
        step = self.status.step
        try:
            awaited = _prepare_to_build(step, self.digests) if is_run() and not step.receipt.exists() else {}
            decision = decide(step, self.digests, predicted=dict.fromkeys(awaited, AWAITED))
            self.status.decision = replace(decision, awaited=awaited)
        except FileNotFoundError:
            return False  # doit itself reports a file that is not there
        except OSError as error:  # what a step has made beside its outputs cannot be read, for example
            self.status.problem = str(unreadable(Path(error.filename or step.receipt), error))
            return False
        except UserError as error:
            self.status.problem = str(error)
            return False
        failed = step.failed_report  # which the action of the step removes
        return self.status.decision.fresh and not (failed and os.path.lexists(failed))

    def __str__(self) -> str:
        return "; ".join(self.status.decision.reasons) if self.status.decision else "an input is not there yet"


def _prepare_to_build(step: Step, digests: Digests) -> dict[str, list[list[int]]]:
    """Begin what takes seconds for a step that will certainly run: its process, and the digests of large inputs.

    Returns:
        The `awaited` inputs of the decision.
    """
    from tasks.child.launcher import warm_up  # what runs with nothing to do need not import

    warm_up(digests.memo.parent)
    whole = {role: path for role, path in step.inputs.items() if not step.records.get(role)}
    found = {path: stamps(path) for path in digests.begin(whole.values())}
    return {role: found[path] for role, path in whole.items() if path in found}


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
