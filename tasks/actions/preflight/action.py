"""Checks without a GPU, in seconds, whether TensorRT could build a plan, before a build that takes minutes.

It checks the profiles, runs the graph at min, opt and max of each in ONNX Runtime, looks up the operators in the table
of those that TensorRT reads, and estimates the memory of activations.
"""

import json
from typing import Any

from tasks.actions.build_plan.onnx_interface import check_precision, describe_interface, load_graph
from tasks.actions.build_plan.profile_shapes import profile_shapes
from tasks.actions.preflight.corners import run_corners
from tasks.actions.preflight.memory import estimate_profiles
from tasks.actions.preflight.operators import check_operators
from tasks.errors import UserError
from tasks.job import Job
from tasks.progress import progress, report
from tasks.settings.component import ComponentSpec
from tasks.settings.shape_profiles import complete_profiles


def run(job: Job) -> dict[str, Any]:
    """Write `outputs["report"]` about `inputs["onnx"]`.

    Returns:
        For the receipt: the warnings, memory per profile, and which corners were run.

    Raises:
        UserError: with everything that would make the build or the plan fail.
    """
    component = ComponentSpec.from_params(job.params["component"])
    onnx, settings = job.inputs["onnx"], job.params["tensorrt"]
    model = load_graph(onnx)
    graph = describe_interface(model)
    check_precision(graph, job.params["precision"]["name"], where=onnx)
    profile_shapes(graph, component, settings)
    profiles = complete_profiles(component.axes, settings)
    operators = check_operators(model)
    _refuse(operators.problems, job)
    memory = estimate_profiles(model, component, profiles)
    del model  # its weights would be in memory twice while the corners run
    corners = run_corners(onnx, graph, component, profiles, memory=memory, threads=job.threads, track=progress)
    _refuse([line for corner in corners for line in corner.problems], job)
    facts: dict[str, Any] = {
        "profiles": [{axis: list(sizes) for axis, sizes in profile.items()} for profile in profiles],
        "corners": [corner.summary() for corner in corners],
        "memory": [estimate.summary() for estimate in memory],
        "warnings": [*operators.warnings, *(line for estimate in memory for line in estimate.warnings())],
    }
    for line in facts["warnings"]:
        report(f"warning: {line}")
    job.outputs["report"].write_text(json.dumps({"step": job.step, **facts}, indent=1) + "\n")
    return facts


def _refuse(problems: list[str], job: Job) -> None:
    if problems:
        remedy = "Change the model, its axes or the profile as each line states, or build no plans: tensorrt.mode=off"
        value = "; ".join(problems)
        raise UserError("a plan of this graph would fail", where=job.inputs["onnx"], value=value, remedy=remedy)
