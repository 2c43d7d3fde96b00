"""Exports a language model as the Hugging Face folder that vLLM loads: configurations and weights in bf16."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from tasks.actions.original import load_original
from tasks.errors import UserError
from tasks.job import Job
from tasks.settings.component import ComponentSpec


def run(job: Job) -> dict[str, Any]:
    """Write config.json, generation_config.json and model.safetensors; the model itself is only read.

    Inputs:
        config, weights: of the model; ``config.json`` and ``generation_config.json`` of its text model.

    Params:
        component: a `ComponentSpec` whose module is a ``VllmExportable``.

    Raises:
        UserError: a configuration that is no JSON object; whatever the loader raises.
    """
    config, generation = (_read(job.inputs[name]) for name in ("config.json", "generation_config.json"))
    model = load_original(job, ComponentSpec.from_params(job.params["component"]))
    served = model.vllm_config(config)
    tensors = model.vllm_tensors()
    _write(job.outputs["config.json"], served)
    _write(job.outputs["generation_config.json"], model.vllm_generation_config(generation))
    save_file(tensors, job.outputs["model.safetensors"], metadata={"format": "pt"})
    job.outputs["model.safetensors"].chmod(job.outputs["config.json"].stat().st_mode)  # the library leaves it private
    return {
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "dtype": served["torch_dtype"],
        "architecture": served["architectures"][0],
        "speech_tokens": served["vocab_size"],
        "text_rows": model.text_rows(),
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError("is not JSON", where=path, value=error, remedy="Copy or download it again") from error
    if not isinstance(content, dict):
        raise UserError("is not a JSON object", where=path, value=type(content).__name__, remedy="Download it again")
    return content


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
