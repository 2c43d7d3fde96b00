"""Verifies a TensorRT plan over the range of each of its profiles, and measures it.

The comparison is the one every artifact goes through; a profile only sets the sizes it tries.
"""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.actions.verify import compare
from tasks.actions.verify.conclusion import remarks
from tasks.actions.verify.latency import measure_profiles
from tasks.job import Job
from tasks.objects import load_object
from tasks.settings.component import ComponentSpec
from tasks.settings.shape_profiles import Profile, complete_profiles


def run(job: Job) -> dict[str, Any]:
    """Compare `artifact` with the original module at sizes of every profile; writes `report`.

    Params: those of `tasks.actions.verify.compare`, and `tensorrt`, the settings the plan was built with.

    Returns:
        Worst numbers and trials of each profile's comparison, latency and context memory.

    Raises:
        UserError: as `tasks.actions.verify.compare`.
    """
    component, settings = ComponentSpec.from_params(job.params["component"]), job.params["tensorrt"]
    profiles = complete_profiles(component.axes, settings)
    with TemporaryDirectory() as folder:
        facts, reports = zip(
            *(_compare(job, profile, Path(folder) / f"{n}.json") for n, profile in enumerate(profiles)),
            strict=True,
        )
    left_out = [line for line in reports[0]["left_out"] if all(line in other["left_out"] for other in reports)]
    engine = load_object(job.params["runtime"])(
        job.inputs["artifact"],
        device=job.params["verify"]["device"],
        threads=job.threads,
        concurrency=job.local.get("concurrency", 1),
    )
    measured = measure_profiles(engine, component, profiles)
    report = {
        "step": job.step,
        "artifact": job.inputs["artifact"].name,
        "passed": True,
        "provider": engine.provider,
        "profiles": [found | {"comparison": report} for found, report in zip(measured, reports, strict=True)],
    }
    job.outputs["report"].write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return {
        "provider": engine.provider,
        "profiles": [worst | found for worst, found in zip(facts, measured, strict=True)],
        "remarks": remarks([trial for report in reports for trial in report["trials"]], job, left_out=left_out),
    }


def _compare(job: Job, profile: Profile, report: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The shared comparison with its sizes taken from one profile, up to the profile's own maximum."""
    bounds = {axis: dict(zip(("min", "opt", "max"), sizes, strict=True)) for axis, sizes in profile.items()}
    axes = {axis: {**table, **bounds[axis]} for axis, table in job.params["component"]["axes"].items()}
    largest = max(sizes[-1] for sizes in profile.values())
    params = job.params | {
        "component": job.params["component"] | {"axes": axes},
        "verify": job.params["verify"] | {"max_frames": largest},
    }
    facts = compare.run(replace(job, params=params, outputs={"report": report}))
    return facts, json.loads(report.read_text(encoding="utf-8"))
