"""What the graph of steps needs to know of this machine, found once per run."""

from functools import cache

from tasks.freshness.decide import NOT_INSTALLED, library_version
from tasks.machine.gpus import gpus
from tasks.machine.tensorrt_install import build_obstacle, runtime_obstacle, tensorrt_version
from tasks.pipeline.graph_inputs import Machine


@cache
def machine_facts() -> Machine:
    found = gpus()
    cuda_build = not library_version("torch").endswith("+cpu")
    return Machine(
        cuda=bool(found) and cuda_build,
        gpu=found[0].slug if found else "nogpu",
        tensorrt=tensorrt_version() or NOT_INSTALLED,
        build_obstacle=build_obstacle(),
        runtime_obstacle=runtime_obstacle(),
        transformers=library_version("transformers") != NOT_INSTALLED,
    )
