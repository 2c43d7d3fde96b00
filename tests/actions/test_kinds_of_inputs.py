"""Token ids, boolean masks, bounded floats and recorded inputs go through export and verification."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch

from tasks.actions.export_onnx import action as export_onnx
from tasks.actions.export_torchscript import action as export_torchscript
from tasks.actions.verify import compare
from tasks.job import Job
from tasks.models.loading.checkpoint_file import save_checkpoint
from tests.support.errors import error_of
from tests.support.onnx_jobs import (
    EXPORTERS,
    EXPORTERS_AND_PRECISIONS,
    QUICK_EXPORTER,
    TORCHSCRIPT,
    small_component,
    small_export_job,
    verify_job,
)

EMBEDDINGS = 12


def tokens(**ids: Any) -> dict[str, Any]:
    """The declaration of `Tokens`."""
    return small_component(
        "Tokens",
        inputs={
            "ids": {"shape": ["batch", "tokens"], "kind": "integers", "low": 0, "high": EMBEDDINGS - 1} | ids,
            "valid": {"shape": ["batch", "tokens"], "kind": "mask", "dtype": "bool"},
            "speed": {"shape": ["batch"], "kind": "uniform", "low": 0.5, "high": 2},
        },
        outputs={"y": ["batch", "tokens", 8]},
        axes={"batch": {"min": 1, "opt": 2, "max": 4}, "tokens": {"min": 1, "opt": 20, "max": 40}},
    )


def exported(component: dict[str, Any], folder: Path, *, exporter: str = "torchscript", **settings: Any) -> Job:
    job = small_export_job("Tokens", folder, component=component, exporter=exporter, **settings)
    export_onnx.run(job)
    return job


def checked(component: dict[str, Any], job: Job, **settings: Any) -> dict[str, Any]:
    return compare.run(verify_job(component, job.outputs["onnx"], weights=job.inputs["weights"], **settings))


@EXPORTERS_AND_PRECISIONS
def test_token_ids_and_boolean_masks_are_exported_and_verified(tmp_path, exporter, precision):
    job = exported(tokens(), tmp_path, exporter=exporter, precision=precision)
    types = {value.name: value.type.tensor_type.elem_type for value in onnx.load(job.outputs["onnx"]).graph.input}
    assert types["ids"] == onnx.TensorProto.INT64
    assert types["valid"] == onnx.TensorProto.BOOL
    assert checked(tokens(), job, precision=precision)["trials"] == 6


@QUICK_EXPORTER
def test_the_dtype_of_ids_is_the_declared_one(tmp_path, exporter):
    job = exported(tokens(dtype="int32"), tmp_path, exporter=exporter)
    assert onnx.load(job.outputs["onnx"]).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT32
    checked(tokens(dtype="int32"), job)


def test_a_torchscript_file_of_token_ids_is_verified(tmp_path):
    job = small_export_job("Tokens", tmp_path)
    settings = {"target": "portable", "optimize": False}
    file = tmp_path / "tokens.zip"
    export_torchscript.run(replace(job, outputs={"torchscript": file}, params=job.params | {"torchscript": settings}))
    assert compare.run(verify_job(tokens(), file, weights=job.inputs["weights"], engine=TORCHSCRIPT))["trials"] == 6


def recorded_call(frames: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(EMBEDDINGS, (2, frames))
    return {"ids": ids, "valid": torch.ones(2, frames, dtype=torch.bool), "speed": torch.tensor([0.5, 1.5])}


def test_inputs_that_are_only_recorded_are_verified_on_the_recordings(tmp_path):
    component = tokens(kind="recorded", dtype="int64", low=None, high=None)
    job = exported(component, tmp_path)
    save_checkpoint(recorded_call(9), tmp_path / "real.pt")
    verify = verify_job(component, job.outputs["onnx"], weights=job.inputs["weights"])
    facts = compare.run(replace(verify, inputs=verify.inputs | {"recorded 1": tmp_path / "real.pt"}))
    assert (facts["trials"], facts["recorded"]) == (1, 1)


def test_without_a_recording_that_fits_nothing_passes(tmp_path):
    component = tokens(kind="recorded", dtype="int64", low=None, high=None)
    job = exported(component, tmp_path)
    error = error_of(checked, component, job)
    assert error.where == str(job.outputs["onnx"])
    assert "no recording" in error.value
    assert not job.outputs["onnx"].with_name("report.json").exists()


@EXPORTERS
def test_seven_dynamic_axes_are_all_dynamic_in_the_file(tmp_path, exporter):
    axes = {f"axis{name}": {"min": 2, "opt": 5, "max": 50} for name in "abcdefg"}
    component = small_component(
        "Seven",
        inputs={name: {"shape": [f"axis{name}"]} for name in "abcdefg"},
        outputs={f"y{name}": [f"axis{name}"] for name in "abcdefg"},
        axes=axes,
    )
    job = small_export_job("Seven", tmp_path, component=component, exporter=exporter)
    facts = export_onnx.run(job)
    assert list(facts["outputs"].values()) == [[name] for name in axes]
    assert compare.run(verify_job(component, job.outputs["onnx"], weights=job.inputs["weights"]))["trials"] == 6
