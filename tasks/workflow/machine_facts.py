"""What the graph of steps needs to know of this machine, found once per run."""

from functools import cache

from tasks.freshness.decide import NOT_INSTALLED, library_version
from tasks.machine import gpus as machine
from tasks.pipeline.graph_inputs import Machine


@cache
def machine_facts() -> Machine:
    gpus = machine.gpus()
    cuda_build = not library_version("torch").endswith("+cpu")
    return Machine(
        cuda=bool(gpus) and cuda_build,
        gpu=gpus[0].slug if gpus else "nogpu",
        tensorrt=machine.tensorrt_version() or NOT_INSTALLED,
        build_obstacle=machine.plan_obstacle(),
        runtime_obstacle=machine.run_obstacle(),
        transformers=library_version("transformers") != NOT_INSTALLED,
    )
