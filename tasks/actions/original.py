"""Loads the original module of a component: what artifacts are made from and compared with."""

from pathlib import Path
from typing import Any

from tasks import progress
from tasks.job import Job
from tasks.models.loading.checkpoint_file import how_read
from tasks.objects import load_object
from tasks.settings.component import ComponentSpec


def load_original(job: Job, component: ComponentSpec) -> Any:
    """Call the component's loader with the job's `config` and `weights`.

    Returns:
        The module in eval mode, in fp32 and on the CPU.

    Raises:
        UserError: the loader cannot be imported; whatever the loader raises.
    """
    return load_object(component.loader)(component, config=job.inputs["config"], weights=job.inputs["weights"])


def unwrapped(*files: Path) -> dict[str, Any]:
    """For the results of a step: how weights were unwrapped, by file name; nothing if all were plain state dicts."""
    notes = {file.name: how for file in files if (how := how_read(file))}
    for name, how in notes.items():
        progress.report(f"{name}: {'; '.join(how)}")
    return {"unwrapped": notes} if notes else {}
