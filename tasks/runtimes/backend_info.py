"""Prints as JSON what PyTorch and ONNX Runtime can run on here; a process of its own for `doit doctor`."""

import json

import onnxruntime
import torch


def probe() -> dict[str, object]:
    """Devices that PyTorch can use, and the providers ONNX Runtime was built with that have their hardware here."""
    providers = onnxruntime.get_available_providers()
    if not torch.cuda.is_available():
        providers = [name for name in providers if name == "CPUExecutionProvider"]
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"torch": ", ".join(["cpu", *cuda]), "providers": providers}


if __name__ == "__main__":
    print(json.dumps(probe()))
