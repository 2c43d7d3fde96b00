"""Tries everything about a plan that needs no GPU, in seconds, before a build that takes minutes.

Profiles are checked, every profile's corners run through ONNX Runtime, operators held against what TensorRT's parser
reads, and the activations' memory estimated.
"""

import json
from typing import Any

from tasks.actions.build_plan.onnx_interface import check_precision, describe_graph, load_graph
from tasks.actions.build_plan.profile_shapes import profile_shapes
from tasks.actions.preflight.corners import run_corners
from tasks.actions.preflight.memory import estimate_profiles
from tasks.actions.preflight.operators import check_operators
from tasks.errors import UserError
from tasks.job import Job
from tasks.progress import progress, say
from tasks.settings.shape_profiles import complete_profiles


def run(job: Job) -> dict[str, Any]:
    """Write `outputs["report"]` about `inputs["onnx"]`.

    Returns:
        For the receipt: the warnings, memory per profile, and which corners were run.

    Raises:
        UserError: listing everything that would make the build or the plan fail.
    """
    onnx, component, settings = job.inputs["onnx"], job.params["component"], job.params["tensorrt"]
    model = load_graph(onnx)
    graph = describe_graph(model)
    check_precision(graph, job.params["precision"]["name"], where=onnx)
    profile_shapes(graph, component, settings)
    profiles = complete_profiles(component["axes"], settings)
    operators = check_operators(model)
    _refuse(operators.problems, job)
    memory = estimate_profiles(model, component, profiles)
    del model  # its weights would be held twice while the corners run
    corners = run_corners(onnx, graph, component, profiles, memory=memory, threads=job.threads, watch=progress)
    _refuse([line for corner in corners for line in corner.problems], job)
    facts: dict[str, Any] = {
        "profiles": [{axis: list(sizes) for axis, sizes in profile.items()} for profile in profiles],
        "corners": [corner.told() for corner in corners],
        "memory": [estimate.told() for estimate in memory],
        "warnings": [*operators.warnings, *(line for estimate in memory for line in estimate.warnings())],
    }
    for line in facts["warnings"]:
        say(f"warning: {line}")
    job.outputs["report"].write_text(json.dumps({"step": job.step, **facts}, indent=1) + "\n")
    return facts


def _refuse(problems: list[str], job: Job) -> None:
    if problems:
        remedy = "Change the model, its axes or the profile as each line says, or make no plans: tensorrt.mode=off"
        value = "; ".join(problems)
        raise UserError("a plan of this graph would fail", where=job.inputs["onnx"], value=value, remedy=remedy)
