"""Loads the folder for vLLM with transformers and compares its logits with the original's.

Twice: in fp32 with weights rounded on both sides, where any mistake in names or configuration shows; and in bf16
with the original as it is, which shows the loss of accuracy in serving.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn

from tasks.actions.export_vllm import VllmExportable
from tasks.actions.inputs.generated import trial_generator
from tasks.actions.original import load_original
from tasks.actions.verify.metrics import Metrics, metrics, short
from tasks.errors import UserError, listed
from tasks.job import Job
from tasks.settings.component import ComponentSpec

WEIGHTS, CONFIG = "vllm/model.safetensors", "vllm/config.json"
HEAD_BIAS = "lm_head.bias"  # transformers' own class has none
# Near zero any bf16 result is outside.
IN_BF16 = {"max_outside": 1.0}


@dataclass(frozen=True)
class Prompt:
    """Rows [1, n, width] in bf16, as they reach vLLM, and the tokens [1, m] that follow them."""

    rows: Tensor
    tokens: Tensor


@torch.inference_mode()
def run(job: Job) -> dict[str, Any]:
    """Compare the folder of the inputs ``vllm/*`` with the model made from `config` and `weights`; writes `report`.

    Params:
        component: a `ComponentSpec` whose module is a `VllmExportable`.
        vllm: trials, seed, max_positions and the limits min_exact_snr_db, min_snr_db, min_cosine, max_peak_error.
        device: that the folder is run on.

    Raises:
        UserError: tensors are missing, too many or not the original's in bf16, or logits differ more than they may.
    """
    settings = job.params["vllm"]
    original: Any = load_original(job, ComponentSpec.from_params(job.params["component"]))
    prompts = [_prompt(original, number, settings) for number in range(settings["trials"])]
    expected = [original.vllm_logits(prompt.rows, prompt.tokens) for prompt in prompts]
    _require_same_tensors(job.inputs[WEIGHTS], original.vllm_tensors())
    _round(original)
    rounded = [original.vllm_logits(prompt.rows, prompt.tokens) for prompt in prompts]
    del original  # before another of its size is loaded
    served = _served(job.inputs[WEIGHTS], job.inputs[CONFIG], device=job.params["device"])
    in_bf16 = [_compared(_found(served, prompt), logits) for prompt, logits in zip(prompts, expected, strict=True)]
    served = _in_dtype(served, torch.float32)
    in_fp32 = [_compared(_found(served, prompt), logits) for prompt, logits in zip(prompts, rounded, strict=True)]
    return _concluded(job, prompts, in_bf16, in_fp32)


def _prompt(original: VllmExportable, number: int, settings: Mapping[str, int]) -> Prompt:
    """The first prompt is the longest."""
    positions = max(4, settings["max_positions"] // (number + 1))
    return Prompt(*original.vllm_prompt(positions, trial_generator(settings["seed"], number)))


def _require_same_tensors(file: Path, expected: Mapping[str, Tensor]) -> None:
    with safe_open(file, framework="pt") as found:
        names = set(found.keys())
        wrong = sorted(names ^ expected.keys()) or [
            name for name, tensor in expected.items() if not torch.equal(found.get_tensor(name), tensor)
        ]
    if wrong:
        raise UserError(
            f"{len(wrong)} tensors are not the original's in bf16",
            where=file,
            value=listed(wrong, 5),
            remedy="Export it again",
        )


def _round(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.copy_(parameter.to(torch.bfloat16))


def _served(weights: Path, config: Path, *, device: str) -> Any:
    """The folder as transformers loads it, in bf16, with the head's bias where there is one."""
    transformers.logging.set_verbosity_error()  # it warns of the bias, which is handled here
    library: Any = transformers.AutoModelForCausalLM
    model, loading = library.from_pretrained(
        str(config.parent), local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
    )
    _require_taken(config.parent, loading)
    if json.loads(config.read_text(encoding="utf-8"))["use_bias"]:
        with safe_open(weights, framework="pt") as file:
            model.lm_head.bias = torch.nn.Parameter(file.get_tensor(HEAD_BIAS))
    return _in_dtype(model.to(device).eval(), torch.bfloat16)


def _require_taken(folder: Path, loading: Mapping[str, Any]) -> None:
    """Every tensor found its place and its shape there."""
    problems = {
        "unexpected": set(loading["unexpected_keys"]) - {HEAD_BIAS},
        "missing": set(loading["missing_keys"]),
        "of another shape": {str(entry[0]) for entry in loading["mismatched_keys"]},
    }
    if any(problems.values()):
        raise UserError(
            "transformers does not take these weights as they are: not the same model",
            where=folder,
            value="; ".join(f"{what}: {listed(sorted(names), 5)}" for what, names in problems.items() if names),
            remedy="Export it again",
        )


def _in_dtype(model: Any, dtype: torch.dtype) -> Any:
    """Weights only: rotation frequencies stay in fp32, as where it is served; rounded, they are other angles."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _found(served: Any, prompt: Prompt) -> Tensor:
    """Logits after every row of the prompt and, from the cache, after every token that follows it."""
    first = served(inputs_embeds=prompt.rows.to(served.device, served.dtype), use_cache=True)
    then = served(input_ids=prompt.tokens.to(served.device), past_key_values=first.past_key_values)
    return torch.cat([first.logits, then.logits], dim=1).float().cpu()


def _compared(found: Tensor, expected: Tensor) -> tuple[Metrics, float]:
    """Metrics of logits [1, n, tokens], and how often the likeliest token is the same."""
    same = (found.argmax(-1) == expected.argmax(-1)).float().mean().item()
    return metrics(found, expected, rtol=0, atol=0), round(same, 4)


def _concluded(
    job: Job,
    prompts: Sequence[Prompt],
    in_bf16: Sequence[tuple[Metrics, float]],
    in_fp32: Sequence[tuple[Metrics, float]],
) -> dict[str, Any]:
    limits = job.params["vllm"]
    worst = {
        "exact_snr_db": min(result.snr_db for result, _ in in_fp32),
        "snr_db": min(result.snr_db for result, _ in in_bf16),
        "cosine": min(result.cosine for result, _ in in_bf16),
        "peak_error": max(result.peak_error for result, _ in in_bf16),
        "same_likeliest_token": min(same for _, same in in_bf16),
    }
    failures = [reason for result, _ in in_bf16 for reason in result.failures(limits | IN_BF16)]
    if worst["exact_snr_db"] < limits["min_exact_snr_db"] or not all(result.finite for result, _ in in_fp32):
        exact = worst["exact_snr_db"]
        failures.insert(0, f"snr_db in fp32 {exact:.6g}, limit {limits['min_exact_snr_db']:g}: not the same model")
    if failures:
        raise UserError(
            "logits differ from the original's",
            where=job.inputs[CONFIG].parent,
            value="; ".join(failures),
            remedy="Export it again, or change the limits under vllm if they are too strict",
        )
    provider = f"transformers {transformers.__version__} on {job.params['device']}"
    shapes = [{"prompt": prompt.rows.size(1), "tokens": prompt.tokens.size(1)} for prompt in prompts]
    results = [
        {"sizes": sizes, "bf16": bf16.to_plain(), "fp32": fp32.to_plain()}
        for sizes, (bf16, _), (fp32, _) in zip(shapes, in_bf16, in_fp32, strict=True)
    ]
    report = {"step": job.step, "passed": True, "provider": provider, "limits": limits, "worst": short(worst)}
    job.outputs["report"].write_text(json.dumps(report | {"trials": results}, indent=1) + "\n", encoding="utf-8")
    return {"provider": provider, "trials": len(prompts), **short(worst)}
