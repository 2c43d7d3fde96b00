"""The estimators of three generations go the whole way: export, preflight at the published profile, build, verify."""

from pathlib import Path

import pytest

from tasks.actions import build_plan, export_onnx, preflight, verify_plan
from tasks.devices import Gpu
from tasks.job import Job
from tests.actions.test_build_plan import SETTINGS
from tests.simulated_runtime import machine
from tests.tensorrt_simulation import Machine

GOLDEN = Path(__file__).parents[1] / "golden"
UNET = "tasks.models.cosyvoice.unet"
GENERATIONS = {
    "cosyvoice1": ("cosyvoice.yaml", f"{UNET}:ConditionalDecoder", {}),
    "cosyvoice2": ("cosyvoice2.yaml", f"{UNET}:CausalConditionalDecoder", {"streaming": False}),
    "cosyvoice3": ("cosyvoice3.yaml", "tasks.models.cosyvoice.dit:DiT", {"streaming": False}),
}
LIMITS = {"rtol": 1e-2, "atol": 1e-4, "max_outside": 0, "max_peak_error": 1e-3, "min_snr_db": 60, "min_cosine": 0.999}
ONNX = {
    "opset": 18,
    "exporter": "torchscript",  # the quick one: what is tested comes after it
    "constant_folding": True,
    "simplify": False,
    "dynamic_batch": False,
    "keep_fp32": [],
    "external_data": "auto",
}


def _component(generation: str, *, batch: tuple[int, int, int] = (2, 2, 2)) -> dict:
    _, module, options = GENERATIONS[generation]
    frames = ["batch", 80, "frames"]
    return {
        "name": "flow.decoder.estimator",
        "part": "flow",
        "loader": "tasks.models.cosyvoice.folder",
        "module": module,
        "inputs": {
            "x": {"shape": frames, "values": "normal"},
            "mask": {"shape": ["batch", 1, "frames"], "values": "mask"},
            "mu": {"shape": frames, "values": "normal"},
            "t": {"shape": ["batch"], "values": "time"},
            "spks": {"shape": ["batch", 80], "values": "normal"},
            "cond": {"shape": frames, "values": "normal"},
        },
        "outputs": {"estimator_out": frames},
        "options": options,
        "kept_methods": [],
        "axes": {
            "frames": {"min": 4, "opt": 500, "max": 3000},
            "batch": {"min": batch[0], "opt": batch[1], "max": batch[2], "multiple_of": 2},
        },
    }


def _job(
    step: str, generation: str, outputs: dict[str, Path], inputs: dict[str, Path], component: dict, **params
) -> Job:
    sources = {"config": GOLDEN / generation / GENERATIONS[generation][0], "weights": GOLDEN / generation / "flow.pt"}
    common = {"component": component, "precision": {"name": "fp32"}, "tensorrt": SETTINGS}
    return Job(step, "", sources | inputs, outputs, common | params)


def _exported(generation: str, folder: Path, component: dict, *, dynamic_batch: bool = False) -> Path:
    path = folder / "flow.decoder.estimator.fp32.onnx"
    settings = ONNX | {"dynamic_batch": dynamic_batch}
    export_onnx.run(_job("export_onnx", generation, {"onnx": path}, {}, component, onnx=settings))
    return path


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_estimator_passes_preflight_at_the_published_profile(generation, tmp_path):
    component = _component(generation)
    onnx = _exported(generation, tmp_path, component)
    facts = preflight.run(_job("preflight", generation, {"report": tmp_path / "r.json"}, {"onnx": onnx}, component))
    ran = {(corner["batch"], corner["frames"]): corner["result"] for corner in facts["corners"]}
    assert ran == {(2, 4): "ran", (2, 500): "ran", (2, 3000): "ran"}
    assert facts["memory"][0]["max"]["untold"] == 0
    assert not [line for line in facts["warnings"] if "TensorRT" in line]


def test_a_dynamic_batch_passes_preflight_too(tmp_path):
    component = _component("cosyvoice2", batch=(2, 4, 8))
    component["axes"]["frames"] = {"min": 4, "opt": 50, "max": 100}
    onnx = _exported("cosyvoice2", tmp_path, component, dynamic_batch=True)
    job = _job("preflight", "cosyvoice2", {"report": tmp_path / "r.json"}, {"onnx": onnx}, component)
    assert [corner["batch"] for corner in preflight.run(job)["corners"]] == [2, 4, 8]


@pytest.mark.parametrize("version", ["10.13.3", "11.4.0"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_estimator_is_built_and_verified(generation, version, tmp_path):
    component = _component(generation)
    component["axes"]["frames"] = {"min": 4, "opt": 50, "max": 100}
    onnx, plan = _exported(generation, tmp_path, component), tmp_path / "estimator.plan"
    gpu = Gpu(0, "NVIDIA H200", "9.0", "580.65.06")
    built = build_plan.build(
        _job("export_plan", generation, {"plan": plan}, {"onnx": onnx}, component), trt=Machine(version).trt, gpu=gpu
    )
    assert built["layer_formats"].keys() == {"FLOAT"}
    if version != machine.version:
        return  # the runtime of the verifier is the other one
    verify = LIMITS | {"trials": 4, "seed": 0, "max_frames": 1000, "device": "cpu"}
    job = _job(
        "verify_plan", generation, {"report": tmp_path / "r.json"}, {"artifact": plan}, component,
        verify=verify, runtime="tests.simulated_runtime",
    )  # fmt: skip
    (profile,) = verify_plan.run(job)["profiles"]
    assert profile["min_snr_db"] > 60
