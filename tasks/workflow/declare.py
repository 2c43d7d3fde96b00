"""The workflow as doit tasks: settings -> steps -> task dictionaries, with receipts deciding what is fresh."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from doit import get_initial_workdir
from doit.exceptions import BaseFail, InvalidDodoFile, TaskError, TaskFailed

from tasks import paths
from tasks.child.request import Order, Outcome
from tasks.errors import UserError
from tasks.freshness.decide import decide, input_digests, library_version
from tasks.freshness.digests import Digests
from tasks.freshness.receipt import write_atomically
from tasks.job import Job
from tasks.machine import gpus as devices
from tasks.machine import tensorrt_install
from tasks.pipeline.component_params import Machine
from tasks.pipeline.graph import EXPORT_STAGES, VERIFY_STAGES, merge, plan
from tasks.pipeline.step import Step
from tasks.settings import compose as config
from tasks.settings.overrides import command_line_words
from tasks.settings.schema import Config
from tasks.workflow import doctor
from tasks.workflow import input_files as folders
from tasks.workflow.clean import clean
from tasks.workflow.doit_freshness import ContentChecker, Freshness, readable_or_gone
from tasks.workflow.reporter import Reporter, Run, explain, matches


class Workflow:
    """What dodo.py declares, for the settings on doit's command line."""

    def __init__(self, configs: Sequence[Config], steps: Sequence[Step], digests: Digests) -> None:
        self.configs = configs
        self.root = Path(configs[0].artifacts)
        self.runs = [Run(step) for step in steps]
        self.digests = digests

    @classmethod
    def from_command_line(cls) -> "Workflow":
        """Read the settings among doit's words and plan the steps.

        Raises:
            InvalidDodoFile: doit's own error, which it prints without a traceback and turns into exit code 3.
        """
        _quiet_interrupts()
        try:
            configs = config.load(command_line_words(), workdir=Path(get_initial_workdir()))
            folders.check_read(configs)
            digests = Digests(_state_folder(configs) / "digests.json")
            steps = [_strict_if_named(step) for step in merge([_plan(one) for one in configs])]
            folders.check_inputs(steps)
            return cls(configs, steps, digests)
        except UserError as error:
            raise InvalidDodoFile(str(error)) from None

    def doit_config(self) -> dict[str, Any]:
        """doit's own settings. Its database is only a cache: the receipts are the truth."""
        return {
            "default_tasks": ["export_all"],
            "dep_file": str(readable_or_gone(paths.state_folder(self.root) / "doit.json")),
            "backend": "json",
            "check_file_uptodate": partial(ContentChecker, self.digests),
            "reporter": type("Reporter", (Reporter,), {"on_end": staticmethod(self.digests.save)}),
            "par_type": "thread",  # the threads only wait for child processes
            "verbosity": 2,
        }

    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """The doit tasks of one stage."""
        return (self._task(run) for run in self.runs if run.step.stage == name)

    def export_all(self) -> dict[str, Any]:
        stages = ["train", "average", *EXPORT_STAGES, "preflight"]
        if any(one.verify.auto for one in self.configs):
            stages += VERIFY_STAGES
        return self._group(stages)

    def verify_all(self) -> dict[str, Any]:
        return self._group(VERIFY_STAGES)

    def why(self, patterns: Sequence[str]) -> BaseFail | None:
        """Print for each step whether it is fresh, and if not, what has changed; nothing is run."""
        steps = [run.step for run in self.runs]
        explain(steps, patterns, self.digests)
        unknown = [pattern for pattern in patterns if not any(matches(step, [pattern]) for step in steps)]
        return TaskFailed(f"no step is called {', '.join(unknown)}; `doit list --all` names them") if unknown else None

    def settings(self) -> None:
        """Print every setting in force, as YAML."""
        for one in self.configs:
            print(config.as_yaml(one))

    def doctor(self) -> None:
        """Print what this installation and machine can do, and what would stop plans of the graphs that are there."""
        for line in doctor.report([run.step for run in self.runs]):
            print(line)
        for run in self.runs:
            wanted = run.step.stage == "preflight" and not run.step.skip
            if wanted and all(path.is_file() for path in run.step.inputs.values()):
                failure = self._perform(run)
                print(f"{run.step.task}: {failure.get_msg() if failure else doctor.verdict(run.step)}")

    def _group(self, stages: Sequence[str]) -> dict[str, Any]:
        """Everything in these stages that can be done here; the reporter names what cannot."""
        runs = [run for run in self.runs if run.step.stage in stages]
        left_out = [run for run in runs if run.step.skip and run.step.skip.refuses]
        return {
            "actions": None,
            "task_dep": [run.step.task for run in runs if run not in left_out],
            "meta": {"left_out": left_out},
        }

    def _task(self, run: Run) -> dict[str, Any]:
        step = run.step
        task = {"name": step.name, "meta": {"run": run}, "clean": [(clean, [step])]}
        if step.skip:
            return task | {"actions": [(_skip, [step])]}
        return task | {
            "actions": [(self._perform, [run])],
            "file_dep": [str(path) for path in step.inputs.values()],
            "task_dep": list(step.after),
            "targets": [str(path) for path in step.outputs.values()],
            "uptodate": [Freshness(run, self.digests)],
        }

    def _perform(self, run: Run) -> BaseFail | None:
        """doit's action: build the step in a child process unless its receipt shows that it is done."""
        decision = run.decision = decide(run.step, self.digests)
        if decision.fresh and not _run_options().always_execute:
            run.outcome = Outcome("reused")
            return None
        from tasks.child.launcher import run_in_child  # nothing to start when nothing is stale

        run.outcome = run_in_child(self._order(run))
        if input_digests(run.step, self.digests) != decision.ingredients.inputs:
            return TaskFailed("an input changed while the step was running; run again to build from the new one")
        if run.outcome.ok:
            return None
        again = f"To run only this step again: {sys.executable} -m tasks.child.worker {self._order_path(run.step)}"
        failure = TaskFailed if run.outcome.status == "failed" else TaskError
        return failure(f"{run.outcome.message.rstrip()}\n{again}")

    def _order(self, run: Run) -> Order:
        step = run.step
        if run.decision is None:
            raise RuntimeError(f"{step.task}: no decision was taken")
        state = paths.state_folder(self.root)
        order = Order(
            job=Job(
                step=step.task,
                action=step.action,
                inputs=dict(step.inputs),
                outputs=dict(step.outputs),
                params=dict(step.params),
                local=dict(step.local),
                threads=_threads_of_a_step(),
            ),
            receipt=step.receipt,
            lock=paths.lock_path(self.root, step.task),
            log=state / "logs" / f"{paths.file_safe(step.task)}.log",
            memo=state / "digests.json",
            ingredients=run.decision.ingredients,
            force=_run_options().always_execute,
        )
        write_atomically(self._order_path(step), order.to_json())
        return order

    def _order_path(self, step: Step) -> Path:
        return paths.order_path(self.root, step.task)


def _plan(one: Config) -> list[Step]:
    return plan(
        one,
        machine=_machine(),
        checkpoints=folders.checkpoints_to_average(one),
        absent=folders.absent(one),
    )


def _strict_if_named(step: Step) -> Step:
    """A step that is skipped on the way is an error where it was asked for itself."""
    if step.skip and step.skip.refuses_by_name and step.task in sys.argv[1:]:
        return replace(step, skip=replace(step.skip, refuses=True))
    return step


def _machine() -> Machine:
    gpus = devices.gpus()
    cuda_build = not library_version("torch").endswith("+cpu")
    return Machine(
        cuda=bool(gpus) and cuda_build,
        gpu=gpus[0].slug if gpus else "nogpu",
        tensorrt=tensorrt_install.tensorrt_version() or "not installed",
        plan_obstacle=tensorrt_install.build_obstacle(),
        run_obstacle=tensorrt_install.runtime_obstacle(),
        transformers=library_version("transformers") != "not installed",
    )


def _state_folder(configs: Sequence[Config]) -> Path:
    state = paths.state_folder(Path(configs[0].artifacts))
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            "cannot write artifacts there",
            where=state.parent,
            value=error.strerror,
            remedy="Mend the permissions, or write elsewhere: artifacts=DIR",
        ) from None
    return state


def _skip(step: Step) -> BaseFail | None:
    """A skipped step does nothing; one that was asked for but cannot be done fails with the reason."""
    if step.skip and step.skip.refuses:
        return TaskFailed(f"{step.skip.text}.")
    return None


def _threads_of_a_step() -> int:
    """The cores, divided by the number of steps that doit runs at once."""
    at_once: int = _run_options().process
    return max(1, len(os.sched_getaffinity(0)) // max(1, at_once))


def _run_options() -> argparse.Namespace:
    """The options of `doit run` that doit tells neither to tasks nor to reporters."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-n", "--process", type=int, default=1)
    parser.add_argument("-a", "--always-execute", action="store_true")
    return parser.parse_known_args(sys.argv[1:])[0]


def _quiet_interrupts() -> None:
    """Ctrl-C is a decision, not a bug: no traceback for it. doit lets it through to the interpreter."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print("\ninterrupted; finished steps are kept, the same command goes on from here", file=sys.stderr)
        else:
            previous(kind, error, trace)

    sys.excepthook = hook
