"""Loads the original module of a component: what artifacts are made from and compared with."""

from typing import Any

from tasks.job import Job
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
