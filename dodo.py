"""voxkiln's tasks: `doit list` shows them, `doit` runs export_all. They are declared in tasks/workflow/declare.py."""

from collections.abc import Iterator
from typing import Any

from tasks.workflow.declare import Workflow

workflow = Workflow.from_command_line()
DOIT_CONFIG = workflow.doit_config()


def task_train() -> Iterator[dict[str, Any]]:
    """train the demo model, one checkpoint an epoch"""
    return workflow.stage("train")


def task_average() -> Iterator[dict[str, Any]]:
    """average the best checkpoints of each part"""
    return workflow.stage("average")


def task_export_jit() -> Iterator[dict[str, Any]]:
    """export TorchScript .zip files for C++ and Python"""
    return workflow.stage("export_jit")


def task_export_onnx() -> Iterator[dict[str, Any]]:
    """export .onnx files"""
    return workflow.stage("export_onnx")


def task_preflight() -> Iterator[dict[str, Any]]:
    """try everything about TensorRT plans that needs no GPU"""
    return workflow.stage("preflight")


def task_export_plan() -> Iterator[dict[str, Any]]:
    """build TensorRT .plan files for the GPU of this machine"""
    return workflow.stage("export_plan")


def task_export_vllm() -> Iterator[dict[str, Any]]:
    """export language models as folders that vLLM loads"""
    return workflow.stage("export_vllm")


def task_export_all() -> dict[str, Any]:
    """everything that can be made here, from checkpoints to verified artifacts (the default)"""
    return workflow.export_all()


def task_record() -> Iterator[dict[str, Any]]:
    """record what the model itself feeds a component while it speaks, for verification to try"""
    return workflow.stage("record")


def task_verify_jit() -> Iterator[dict[str, Any]]:
    """hold .zip files against the original model"""
    return workflow.stage("verify_jit")


def task_verify_onnx() -> Iterator[dict[str, Any]]:
    """hold .onnx files against the original model"""
    return workflow.stage("verify_onnx")


def task_verify_plan() -> Iterator[dict[str, Any]]:
    """hold .plan files against the original model over their profiles"""
    return workflow.stage("verify_plan")


def task_verify_vllm() -> Iterator[dict[str, Any]]:
    """load the folders for vLLM back and hold their logits against the original"""
    return workflow.stage("verify_vllm")


def task_verify_all() -> dict[str, Any]:
    """hold every artifact against the original model"""
    return workflow.verify_all()


def task_why() -> dict[str, Any]:
    """say for each step whether it is stale and what changed, without running it: doit why [STEP...]"""
    return {"actions": [workflow.why], "pos_arg": "patterns", "uptodate": [False]}


def task_settings() -> dict[str, Any]:
    """print every setting in force"""
    return {"actions": [workflow.settings], "uptodate": [False]}


def task_doctor() -> dict[str, Any]:
    """print versions, devices and providers, and what will be skipped here and why"""
    return {"actions": [workflow.doctor], "uptodate": [False]}
