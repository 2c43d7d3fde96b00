"""The workflow as doit tasks: settings -> steps -> task dictionaries, with receipts deciding what is fresh."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from doit import get_initial_workdir
from doit.exceptions import BaseFail, InvalidDodoFile, TaskFailed

from tasks import paths
from tasks.errors import ConfigError, UserError
from tasks.freshness.digests import Digests
from tasks.pipeline.graph import build, merge
from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.stage import Group, names
from tasks.pipeline.stages.table import STAGES
from tasks.pipeline.step import Step
from tasks.progress import prepare_streams
from tasks.settings import compose
from tasks.settings.command_line import command_line_words
from tasks.settings.schema import Config
from tasks.workflow import artifacts_folder, input_files
from tasks.workflow.clean import clean, end_of_clean, refuse_beside_a_run
from tasks.workflow.doit_freshness import ContentChecker, UpToDate
from tasks.workflow.execute import execute, refuse_skipped
from tasks.workflow.machine_facts import machine_facts
from tasks.workflow.model_folder import load_settings
from tasks.workflow.part_files import check_parts
from tasks.workflow.printing import printing
from tasks.workflow.reporter import Reporter
from tasks.workflow.run_options import refuse_processes, run_options
from tasks.workflow.schedule import longest_first
from tasks.workflow.side_by_side import SideBySide
from tasks.workflow.step_status import StepStatus
from tasks.workflow.unused_settings import unused_settings
from tasks.workflow.why import explain, matches


class Workflow:
    """The tasks for the settings on doit's command line."""

    def __init__(self, configs: Sequence[Config], steps: Sequence[Step], digests: Digests) -> None:
        self.configs = configs
        self.root = Path(configs[0].artifacts)
        self.statuses = [StepStatus(step) for step in steps]
        self.digests = digests
        limit = configs[0].memory_gib
        self.side_by_side = SideBySide(self.statuses, limit * 2**30 if limit else float("inf"))
        self.not_removed: list[str] = []  # by `doit clean`, and why

    @classmethod
    def from_command_line(cls) -> "Workflow":
        """Read the settings among doit's words and build the graph of steps.

        Raises:
            InvalidDodoFile: doit's own error, which it prints without a traceback and turns into exit code 3.
        """
        prepare_streams()
        try:
            refuse_processes()
            words = command_line_words()
            configs = load_settings(words, workdir=Path(get_initial_workdir() or Path.cwd()))
            input_files.check_read(configs)
            root = Path(configs[0].artifacts)
            artifacts_folder.prepare(root)
            graphs = [_graph_inputs(one) for one in configs]
            check_parts(graphs, words)
            built = [build(one, STAGES) for one in graphs]
            steps = merge(built)
            if unused := unused_settings(words, list(zip(graphs, built, strict=True)), STAGES):
                raise ConfigError(unused)
            artifacts_folder.require_folders(steps, root)
            input_files.check_inputs(steps)
            if "clean" in artifacts_folder.words():
                refuse_beside_a_run(steps, root)
            else:
                input_files.check_made(steps)
            return cls(configs, [_error_if_named(step) for step in steps], Digests(paths.digest_memo(root)))
        except UserError as error:
            raise InvalidDodoFile(str(error)) from None

    def doit_config(self) -> dict[str, Any]:
        """doit's own settings. Its database is only a cache: the receipts decide."""
        return {
            "default_tasks": ["export_all"],
            **artifacts_folder.database(self.root, at_end=partial(end_of_clean, self.not_removed)),
            "check_file_uptodate": partial(ContentChecker, self.digests),
            "reporter": type("Reporter", (Reporter,), {"on_end": staticmethod(self._remember_digests)}),
            "par_type": "thread",  # the threads only wait for child processes
            "verbosity": 2,
        }

    def task_creators(self) -> dict[str, Callable[[], Any]]:
        """What doit looks for in dodo.py: ``task_NAME`` for every stage, group and command."""
        tasks: dict[str, tuple[str, Callable[[], Any]]] = {
            **{stage.name: (stage.summary, partial(self._stage, stage.name)) for stage in STAGES},
            "export_all": (
                "everything that can be made here, from checkpoints to verified artifacts (the default)",
                partial(self._group, names(STAGES, *self._groups_of_export_all())),
            ),
            "verify_all": (
                "compare every artifact with the original model",
                partial(self._group, names(STAGES, Group.verify)),
            ),
            "why": (
                "print what is stale and why, without running it: doit why [STEP...]",
                partial(_command, self.why, pos_arg="patterns"),
            ),
            "settings": ("print every setting in force", partial(_command, self.settings)),
            "doctor": (
                "print versions, devices and providers, and what is skipped here and why",
                partial(_command, self.doctor),
            ),
        }
        return {f"task_{name}": _documented(creator, summary) for name, (summary, creator) in tasks.items()}

    def why(self, patterns: Sequence[str]) -> BaseFail | None:
        """Print for each step whether it is fresh, and if not, what has changed; nothing is run."""
        steps = [status.step for status in self.statuses]
        explain(steps, patterns, self.digests)
        unknown = [pattern for pattern in patterns if not any(matches(step, [pattern]) for step in steps)]
        return TaskFailed(f"no step is called {', '.join(unknown)}; `doit list --all` names them") if unknown else None

    def settings(self) -> None:
        """Print every setting in force, as YAML."""
        for one in self.configs:
            print(compose.as_yaml(one))

    def doctor(self) -> None:
        """Print what this installation and machine can do; nothing is run."""
        from tasks.workflow import doctor

        for line in doctor.report([status.step for status in self.statuses], self.digests):
            print(line)

    def _remember_digests(self) -> None:
        with contextlib.suppress(OSError):  # where only reading is possible; it costs time and nothing else
            self.digests.save()

    def _groups_of_export_all(self) -> list[Group]:
        verified = any(one.verify.auto for one in self.configs)
        return [Group.export, Group.verify] if verified else [Group.export]

    def _stage(self, name: str) -> Iterator[dict[str, Any]]:
        return (self._task(status) for status in self.statuses if status.step.stage == name)

    def _group(self, stages: Sequence[str]) -> dict[str, Any]:
        """Everything in these stages that can be done here; the reporter names what cannot."""
        every = [status.step for status in self.statuses]
        steps = [step for step in every if step.stage in stages]
        if run_options().get("num_process", 0) > 1:
            steps = longest_first(steps, every)
        skipped = [step for step in steps if step.skip and step.skip.error_if_selected]
        return {
            "actions": None,
            "task_dep": [step.task for step in steps if not (step.skip and step.skip.error_if_selected)],
            "meta": {"skipped": skipped},
        }

    def _task(self, status: StepStatus) -> dict[str, Any]:
        step = status.step
        task = {
            "name": step.name,
            "doc": _described(step),
            "meta": {"status": status},
            "clean": [(clean, [step, self.root, self.not_removed])],
        }
        if step.skip:
            return task | {"actions": [(refuse_skipped, [step])]}
        return task | {
            "actions": [(execute, [status, self.root, self.digests, self.side_by_side])],
            "file_dep": [str(path) for path in step.inputs.values()],
            "task_dep": list(step.after),
            "targets": [str(path) for path in step.outputs.values()],
            "uptodate": [UpToDate(status, self.digests)],
        }


def _graph_inputs(one: Config) -> GraphInputs:
    one = input_files.with_found_parts(one)
    checkpoints, left_out = input_files.checkpoints_to_average(one)
    return GraphInputs(one, machine_facts(), checkpoints, input_files.absent(one), left_out)


def _error_if_named(step: Step) -> Step:
    """A step that is skipped on the way is an error where it was asked for itself."""
    if step.skip and step.skip.error_if_named and step.task in sys.argv[1:]:
        return replace(step, skip=replace(step.skip, error_if_selected=True))
    return step


def _described(step: Step) -> str:
    """For `doit list --all`: what the step writes."""
    if step.skip:
        return f"skipped: {step.skip.reason}"
    first, *others = (path.name for path in step.outputs.values())
    return f"{first} and {len(others)} more files" if others else first


def _command(action: Callable[..., Any], **more: Any) -> dict[str, Any]:
    return {"actions": [printing(action)], "uptodate": [False], **more}


def _documented(creator: Callable[[], Any], summary: str) -> Callable[[], Any]:
    """doit takes a task's description from the docstring of what creates it."""

    def create() -> Any:
        return creator()

    create.__doc__ = summary
    return create
