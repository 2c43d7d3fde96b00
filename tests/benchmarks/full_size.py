"""Writes a model folder of original size with random weights, for measurements without a download.

    python -m tests.benchmarks.full_size cosyvoice2 build/cosyvoice2 --parts flow

The YAML is that of the small recorded folder with the original dimensions put in.
"""

import argparse
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from tasks.models.cosyvoice.folder import build_part
from tasks.models.loading.checkpoint_file import save_checkpoint
from tests.support.golden_cases import GOLDEN

ENCODER = {"output_size": 512, "attention_heads": 8, "linear_units": 2048, "num_blocks": 6, "input_size": 512}
UNET = {"attention_head_dim": 64, "n_blocks": 4, "num_mid_blocks": 12, "num_heads": 8}
LANGUAGE_MODEL = {"llm.speech_token_size": 6561}
QWEN2 = {  # of config.json beside it
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "vocab_size": 151936,
}
VOCODER = {"hift.base_channels": 512, "hift.f0_predictor.cond_channels": 512}


def _under(path: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{path}.{name}": value for name, value in values.items()}


# What differs from the small folder, by model and part; "" holds what several parts refer to.
ORIGINAL: dict[str, dict[str, dict[str, Any]]] = {
    "cosyvoice": {
        "": {"text_encoder_input_size": 512, "llm_input_size": 1024, "llm_output_size": 1024},
        "llm": {"llm.text_token_size": 51866, "llm.speech_token_size": 4096}
        | _under(
            "llm.text_encoder",
            {"output_size": 1024, "attention_heads": 16, "linear_units": 4096, "num_blocks": 6},
        )
        | _under("llm.llm", {"attention_heads": 16, "linear_units": 4096, "num_blocks": 14}),
        "flow": {"flow.input_size": 512, "flow.vocab_size": 4096}
        | _under("flow.encoder", ENCODER)
        | _under("flow.decoder.estimator", UNET | {"channels": [256, 256]}),
        "hift": VOCODER,
    },
    "cosyvoice2": {
        "": {"chunk_size": 25, "llm_input_size": 896, "llm_output_size": 896},
        "llm": LANGUAGE_MODEL,
        "flow": {"flow.input_size": 512, "flow.vocab_size": 6561}
        | _under("flow.encoder", ENCODER)
        | _under("flow.decoder.estimator", UNET | {"channels": [256]}),
        "hift": VOCODER,
    },
    "cosyvoice3": {
        "": {"chunk_size": 25, "llm_input_size": 896, "llm_output_size": 896},
        "llm": LANGUAGE_MODEL,
        "flow": {"flow.vocab_size": 6561, "flow.pre_lookahead_layer.channels": 1024}
        | _under("flow.decoder.estimator", {"dim": 1024, "depth": 22, "heads": 16, "dim_head": 64}),
        "hift": VOCODER,
    },
}
QWEN_FOLDER = "CosyVoice-BlankEN"
QWEN = "llm.model."  # what the names of its weights begin with in llm.pt
SMALL = {"cosyvoice": "cosyvoice1", "cosyvoice2": "cosyvoice2", "cosyvoice3": "cosyvoice3"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(ORIGINAL))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", help="default: all that are known in full size")
    parser.add_argument("--missing", action="store_true", help="leave the parts whose weights are there as they are")
    options = parser.parse_args()
    parts = options.parts or [part for part in ORIGINAL[options.model] if part]
    if options.missing:
        parts = [part for part in parts if not (options.folder / f"{part}.pt").is_file()]
    write_folder(options.model, options.folder, parts=parts)


def write_folder(model: str, folder: Path, *, parts: list[str]) -> None:
    """Write the YAML and the weights of ``parts``, and print how many parameters each has."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / f"{model}.yaml"
    config.write_text(full_size_yaml(model), encoding="utf-8")
    if "llm" in parts and (GOLDEN / SMALL[model] / QWEN_FOLDER).is_dir():
        _write_qwen_config(GOLDEN / SMALL[model] / QWEN_FOLDER, folder / QWEN_FOLDER)
    for part in parts:
        started = time.perf_counter()
        count = _write_part(part, config, folder / f"{part}.pt")
        print(f"{model} {part}: {count / 1e6:.1f} M parameters, {time.perf_counter() - started:.0f} s", flush=True)


def _write_qwen_config(small: Path, folder: Path) -> None:
    """The configuration in original size; the tokenizer stays the small one."""
    shutil.copytree(small, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((small / "config.json").read_text(encoding="utf-8")) | QWEN2
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def full_size_yaml(model: str) -> str:
    """The small folder's YAML with the original dimensions; tags and references stay as they are."""
    text = (GOLDEN / SMALL[model] / f"{model}.yaml").read_text(encoding="utf-8")
    document = yaml.compose(text, Loader=yaml.SafeLoader)
    for values in ORIGINAL[model].values():
        for path, value in values.items():
            _set(document, path.split("."), value)
    return yaml.serialize(document, Dumper=yaml.SafeDumper)


def _set(document: yaml.Node, path: list[str], value: Any) -> None:
    *parents, last = path
    for name in parents:
        document = _entries(document)[name]
    if last not in _entries(document):
        raise KeyError(f"{'.'.join(path)} is not in the YAML")
    new = yaml.compose(yaml.safe_dump(value), Loader=yaml.SafeLoader)
    document.value = [(key, new if key.value == last else old) for key, old in document.value]


def _entries(node: yaml.Node) -> dict[str, yaml.Node]:
    return {key.value: value for key, value in node.value}


def _write_part(part: str, config: Path, weights: Path) -> int:
    torch.manual_seed(0)
    module = build_part(part, config=config)
    save_checkpoint(module.state_dict(), weights)
    if part == "llm" and (config.parent / QWEN_FOLDER).is_dir():
        _write_qwen_weights(module.state_dict(), config.parent / QWEN_FOLDER)
    return sum(parameter.numel() for parameter in module.parameters())


def _write_qwen_weights(language_model: Mapping[str, Tensor], folder: Path) -> None:
    """Those that the original implementation starts from, before it loads llm.pt over them."""
    own = {name.removeprefix(QWEN): tensor for name, tensor in language_model.items() if name.startswith(QWEN)}
    save_file({name: tensor.bfloat16() for name, tensor in own.items()}, folder / "model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    main()
