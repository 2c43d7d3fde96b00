"""The table of stages: dodo.py's tasks, their groups and the README's list come from it. A new stage is one row."""

from tasks.pipeline.stage import Group, Per, Stage
from tasks.pipeline.stages import (
    average,
    export_jit,
    export_onnx,
    export_plan,
    export_vllm,
    preflight,
    record,
    train,
    verify_jit,
    verify_onnx,
    verify_plan,
    verify_vllm,
)

# In the order in which the steps of one part or component depend on each other.
STAGES = (
    Stage("train", "train the demo model, one checkpoint per epoch", train.step, Per.part, Group.export),
    Stage("average", "average the best checkpoints of each part", average.step, Per.part, Group.export),
    Stage("record", "record the inputs that a component receives while the model itself runs", record.step),
    Stage("export_jit", "export TorchScript .zip files for C++ and Python", export_jit.step, group=Group.export),
    Stage("verify_jit", "compare .zip files with the original model", verify_jit.step, group=Group.verify),
    Stage("export_onnx", "export .onnx files", export_onnx.step, group=Group.export),
    Stage("verify_onnx", "compare .onnx files with the original model", verify_onnx.step, group=Group.verify),
    Stage("preflight", "check TensorRT profiles and operators without a GPU", preflight.step, group=Group.export),
    Stage("export_plan", "build TensorRT .plan files for this machine's GPU", export_plan.step, group=Group.export),
    Stage("verify_plan", "compare .plan files with the original model", verify_plan.step, group=Group.verify),
    Stage("export_vllm", "export language models as folders that vLLM loads", export_vllm.step, group=Group.export),
    Stage("verify_vllm", "compare vLLM folders with the original model", verify_vllm.step, group=Group.verify),
)
