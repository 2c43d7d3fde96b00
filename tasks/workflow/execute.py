"""doit's action of every step: reuse what its receipt shows, or build it in a child process."""

import contextlib
import shlex
import sys
from functools import partial
from pathlib import Path

from doit.exceptions import BaseFail, TaskError, TaskFailed

from tasks import paths
from tasks.child.outcome import Outcome
from tasks.child.request import Request
from tasks.errors import UserError
from tasks.freshness.decide import Decision, input_digests
from tasks.freshness.digests import AWAITED, Digests, stamps
from tasks.job import Job
from tasks.paths import failed_report
from tasks.pipeline.step import Step
from tasks.workflow.run_options import run_options
from tasks.workflow.side_by_side import SideBySide
from tasks.workflow.step_status import StepStatus


def execute(
    status: StepStatus, root: Path, digests: Digests, side_by_side: SideBySide | None = None
) -> BaseFail | None:
    """Act on the decision about a step: nothing to do for a fresh one, else a child process builds it.

    Args:
        root: the artifacts folder.
        side_by_side: the steps of this run; without it, the step is the only one.
    """
    step, decision = status.step, status.decision
    if status.problem:
        return TaskFailed(status.problem)
    if decision is None:
        raise RuntimeError(f"{step.task}: doit did not ask whether it is up to date")
    always: bool = run_options().get("always", False)
    if decision.fresh and not always:
        _remove_failed_reports(step, rebuilt=False)
        status.outcome = Outcome("reused")
        return None
    file = paths.request_path(root, step.task)
    side_by_side = side_by_side or SideBySide()
    try:
        with side_by_side.admitted(step):
            request = _request(decision, root, always=always, threads=side_by_side.threads(step))
            outcome = status.outcome = _built(request, file, decision, digests)
    except OSError as error:
        if cause := _outer_cause(error, root):
            return TaskFailed(cause)
        raise
    if outcome.ok:
        _remove_failed_reports(step, rebuilt=outcome.status == "built")
    for name, output in outcome.outputs.items():
        with contextlib.suppress(OSError):  # removed again already
            digests.adopt(step.receipt.parent / name, output.sha256, modified_ns=output.modified_ns)
    if changed := _changed_inputs(decision, digests):
        return TaskFailed(f"an input {changed} while the step was running; run again to build from what is there then")
    if outcome.ok:
        return None
    again = f"To run only this step again: {shlex.join([sys.executable, '-m', 'tasks.child.worker', str(file)])}"
    failure = TaskFailed if outcome.status == "failed" else TaskError
    return failure(f"{outcome.message.rstrip()}\n{again}")


def _remove_failed_reports(step: Step, *, rebuilt: bool) -> None:
    """What a success contradicts: an earlier failure of this verification, and those of artifacts that are gone."""
    outdated = [failed_report(path) for path in step.outputs.values()] if rebuilt else []
    for path in (step.failed_report, *outdated):
        with contextlib.suppress(OSError):  # it misleads, but harms nothing
            if path:
                path.unlink(missing_ok=True)


def _built(request: Request, file: Path, decision: Decision, digests: Digests) -> Outcome:
    from tasks.child.launcher import run_in_child  # nothing to launch when nothing is stale

    request.write(file)
    with contextlib.suppress(OSError):  # it costs time: the child looks at the inputs once more
        digests.save()
    return run_in_child(file, partial(_awaited, decision, digests))


def _awaited(decision: Decision, digests: Digests) -> dict[str, str]:
    """The digests that were being computed when the step was chosen to run; none once an input cannot be read."""
    with contextlib.suppress(OSError):  # its process finds out which
        return {role: digests.of_file(decision.step.inputs[role]) for role in decision.awaited}
    return {}


def _outer_cause(error: OSError, root: Path) -> str:
    """Why a request cannot be written or its process not be started; empty where that may be a bug."""
    from tasks.child.disk import disk_error_message, is_disk_error

    if is_disk_error(error, root):
        return disk_error_message(error, root)
    if not paths.sockets(root).is_dir():
        remedy = "Run again; finished steps are kept"
        return str(UserError("was removed while a run was using it", where=paths.state_folder(root), remedy=remedy))
    return ""


def _changed_inputs(decision: Decision, digests: Digests) -> str:
    """What has happened to the inputs since a decision; empty if nothing has."""
    step = decision.step
    removed = [path for path in step.inputs.values() if not path.exists()]
    if removed:
        return f"was removed or renamed ({removed[0]})"
    awaited = decision.awaited
    changed = any(stamps(step.inputs[role]) != stamp for role, stamp in awaited.items())
    found = input_digests(step.inputs, step.records, digests, predicted=dict.fromkeys(awaited, AWAITED))
    return "changed" if changed or found != decision.ingredients.inputs else ""


def refuse_skipped(step: Step) -> BaseFail | None:
    """The action of a skipped step: nothing, or the reason where the step was asked for and cannot be done."""
    return TaskFailed(f"{step.skip.text}.") if step.skip and step.skip.error_if_selected else None


def _request(decision: Decision, root: Path, *, always: bool, threads: int) -> Request:
    step = decision.step
    return Request(
        job=Job(
            step=step.task,
            action=step.action,
            inputs=dict(step.inputs),
            outputs=dict(step.outputs),
            params=dict(step.params),
            local=dict(step.local),
            threads=threads,
            digests=decision.ingredients.inputs,
        ),
        receipt=step.receipt,
        lock=paths.lock_path(root, step.task),
        log=paths.log_path(root, step.task),
        memo=paths.digest_memo(root),
        ingredients=decision.ingredients,
        records=step.records,
        awaited=decision.awaited,
        always=always,
    )
