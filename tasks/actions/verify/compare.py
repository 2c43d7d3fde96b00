"""Verifies an artifact: runs it beside the original module in fp32 on the same weights and seeded, realistic inputs.

Its weights are compared with the checkpoint's as well, where its format lists them.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from tasks.actions.inputs.generated import (
    InputCase,
    Padding,
    generated_cases,
    make_case,
    static_sizes,
)
from tasks.actions.inputs.recorded import recorded_cases
from tasks.actions.original import load_original
from tasks.actions.verify.conclusion import concluded
from tasks.actions.verify.doubt import all_tried
from tasks.actions.verify.originals import originals
from tasks.actions.verify.reference import expected_of
from tasks.actions.verify.requirements import (
    require_dtypes,
    require_dynamic,
    require_formats,
    require_outputs,
    require_repeatable,
)
from tasks.actions.verify.trial import tried
from tasks.actions.verify.weights import compare_weights
from tasks.errors import UserError
from tasks.job import Job
from tasks.objects import load_object
from tasks.runtimes.base import Contents, Runtime, Shapes, torch_dtype
from tasks.runtimes.eager import PyTorchModule
from tasks.settings.component import ComponentSpec
from tasks.settings.number_formats import BY_NAME


def run(job: Job) -> dict[str, Any]:
    """Compare `artifact` with the module made from `config` and `weights`; writes `report`.

    Inputs named `recorded...` are files of recorded inputs, tried after the generated ones.

    Params:
        component: a `ComponentSpec`; with `chunked`, that method is run as well.
        precision: `name`; the floats of a 16-bit artifact's inputs are rounded first, for the reference as well.
        verify: trials, seed, max_frames, device and the limits max_noise, accept_format, rtol, atol, max_outside,
            max_peak_error, min_snr_db, min_cosine.
        runtime: ``module:function`` that opens the artifact.
        contents: ``module:function`` that lists its weights, or nothing.

    Raises:
        UserError: the artifact cannot be run on that device, there are no inputs to run it on, or a case failed: which,
            with the worst element.
    """
    component, verify = ComponentSpec.from_params(job.params["component"]), job.params["verify"]
    dtype, device = torch_dtype(BY_NAME[job.params["precision"]["name"]]), verify["device"]
    module: nn.Module = load_original(job, component)
    reference = PyTorchModule(module, options=component.options, device=device)
    contained = _contained(module, reference, component, job)  # before the artifact takes memory
    artifact: Runtime = load_object(job.params["runtime"])(job.inputs["artifact"], device=device, threads=job.threads)
    require_dynamic(artifact, component, job)
    require_dtypes(artifact, component, job)
    require_outputs(artifact, component, job)
    cases, left_out = _cases(job, component, static_sizes(module), artifact.shapes)
    require_repeatable(reference, cases[0], component)
    with TemporaryDirectory(dir=job.outputs["report"].parent) as folder:
        expected = partial(
            expected_of,
            reference=reference,
            component=component,
            dtype=dtype,
            dtypes=artifact.dtypes,
            folder=Path(folder),
        )
        results = all_tried(
            originals(cases, expected, component=component, dtype=dtype),
            lambda each, runs: tried(each, artifact, component=component, dtype=dtype, limits=verify, runs=runs),
        )
    about = {"provider": artifact.provider, "reference": reference.provider, **contained, "left_out": left_out}
    return concluded(job, about, results)


def _contained(module: nn.Module, reference: PyTorchModule, component: ComponentSpec, job: Job) -> dict[str, Any]:
    """What the report has of the weights in the artifact and of the formats it computes in."""
    if not job.params["contents"]:
        return {"weights": {"not_compared": "the artifact does not list them", "problems": []}}
    contents: Contents = load_object(job.params["contents"])(job.inputs["artifact"])
    require_formats(contents.formats, job)
    sizes = component.sizes_at("min") | static_sizes(module)
    random = torch.Generator().manual_seed(job.params["verify"]["seed"])
    inputs = make_case(component, sizes, padding=Padding.none, random=random).inputs
    weights = compare_weights(module, lambda: reference(inputs), contents.weights)
    return {"formats": sorted(contents.formats), "weights": weights}


def _cases(
    job: Job, component: ComponentSpec, static: Mapping[str, int], fixed: Shapes
) -> tuple[list[InputCase], list[str]]:
    """The generated cases and the recorded ones, and which of these do not fit the artifact."""
    verify = job.params["verify"]
    generated = list(
        generated_cases(
            component,
            count=verify["trials"],
            seed=verify["seed"],
            max_size=verify["max_frames"],
            static=static,
            fixed=fixed,
        )
    )
    recorded, left_out = recorded_cases(job.inputs, component, fixed=fixed, first=len(generated))
    if not generated and not recorded:
        raise UserError(
            f"there are no inputs to verify {component.name} on",
            where=job.inputs["artifact"],
            value="; ".join(left_out) or "no recording",
            remedy="Record inputs that fit the artifact",
        )
    return [*generated, *recorded], left_out
