"""Exports a language model as the Hugging Face folder that vLLM loads: configurations and weights in bf16."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from tasks.actions.original import load_original, unwrapped
from tasks.job import Job
from tasks.settings.component import ComponentSpec
from tasks.user_files import read_json


class VllmExportable(Protocol):
    """What a language model offers for vLLM: a plain causal language model in bf16; no method changes the model."""

    def vllm_tensors(self) -> dict[str, Tensor]:
        """The weights in bf16 under the names of ``transformers``."""

    def vllm_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """config.json for these weights, from the one of the model that they were trained from."""

    def vllm_generation_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """generation_config.json, from the one of the model that they were trained from."""

    def vllm_prompt(self, positions: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random request of some positions: rows [1, n, width] in bf16, then tokens [1, m]."""

    def vllm_logits(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """The original's logits [1, n + m, vocabulary] after each of them."""


def run(job: Job) -> dict[str, Any]:
    """Write config.json, generation_config.json and model.safetensors; the model itself is only read.

    Inputs:
        config, weights: of the model; ``config.json`` and ``generation_config.json`` of its text model.

    Params:
        component: a `ComponentSpec` whose module is a `VllmExportable`.

    Raises:
        UserError: a configuration that is no JSON object; whatever the loader raises.
    """
    config, generation = (read_json(job.inputs[name]) for name in ("config.json", "generation_config.json"))
    model: VllmExportable = load_original(job, ComponentSpec.from_params(job.params["component"]))
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
        "vocabulary": served["vocab_size"],
        **unwrapped(job.inputs["weights"]),
    }


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
