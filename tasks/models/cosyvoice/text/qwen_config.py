"""config.json of a Qwen2, checked before the `transformers` library builds what it describes, however large."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.errors import UserError, shortened_name
from tasks.user_files import read_json

MODEL_TYPE = "qwen2"
# What config.json must contain, with bounds far beyond any published model.
DIMENSIONS = {
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "num_attention_heads": 2**12,
    "num_hidden_layers": 2**10,
    "vocab_size": 2**24,
}
NUMBERS, MAX_NUMBER = ("rms_norm_eps", "rope_theta"), 1e30
OPTIONAL_DIMENSIONS = {"num_key_value_heads": 2**12, "head_dim": 2**16, "max_position_embeddings": 2**31}

# What else shapes a Qwen2. Of others the library could make something large: `num_labels` becomes as many names.
OTHER_SETTINGS = {
    "attention_dropout",
    "dtype",
    "hidden_act",
    "initializer_range",
    "layer_types",
    "max_window_layers",
    "pad_token_id",
    "rope_parameters",
    "rope_scaling",
    "sliding_window",
    "tie_word_embeddings",
    "torch_dtype",
    "use_cache",
    "use_sliding_window",
}
CLASSIFIER = {"num_labels", "id2label", "label2id"}  # settings of classifiers, which libraries expand


def backbone_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings of a config.json that a Qwen2 is built from."""
    used = DIMENSIONS.keys() | OPTIONAL_DIMENSIONS.keys() | {*NUMBERS} | OTHER_SETTINGS
    return {name: value for name, value in content.items() if name in used}


def read_qwen_config(file: Path, *, complete: bool = True) -> dict[str, Any]:
    """The content of config.json.

    Args:
        complete: require every size, not only good ones among those that are there.

    Raises:
        UserError: it is missing, no JSON object, or does not describe a Qwen2 of a size that can be built.
    """
    if not file.exists():
        raise UserError(
            "the Qwen2 configuration of the language model is missing",
            where=file,
            remedy="Download the model's CosyVoice-BlankEN folder, or set qwen_pretrain_path to it",
        )
    content = read_json(file)
    if content.get("model_type", MODEL_TYPE) != MODEL_TYPE:
        raise invalid_config(file, content["model_type"])
    for name, largest in (DIMENSIONS | OPTIONAL_DIMENSIONS).items():
        if name in content or (complete and name in DIMENSIONS):
            _require_dimension(file, content, name, largest)
    for name in NUMBERS:
        _require_number(file, name, content.get(name, 1.0))
    if complete and "head_dim" not in content and content["hidden_size"] % content["num_attention_heads"]:
        sizes = f"hidden_size {content['hidden_size']}, num_attention_heads {content['num_attention_heads']}"
        raise invalid_config(file, f"{sizes}: not a multiple")
    return content


def _require_dimension(file: Path, content: dict[str, Any], name: str, largest: int) -> None:
    """The library would take its own default for a missing size, and try to build any that is given."""
    if name not in content:
        raise invalid_config(file, f"no {name}")
    value = content[name]
    if type(value) is not int or not 1 <= value <= largest:
        size = value if isinstance(value, str | float | bool | None) else type(value).__name__
        size = value if type(value) is int and abs(value) < 10**30 else size
        raise invalid_config(file, f"{name}: {shortened_name(size)}, allowed 1 to {largest}")


def _require_number(file: Path, name: str, value: object) -> None:
    if type(value) not in (int, float) or not 0 < value < MAX_NUMBER:  # type: ignore[operator]
        raise invalid_config(
            file, f"{name}: {value if type(value) is float else type(value).__name__}, allowed above 0"
        )


def invalid_config(file: Path, value: object) -> UserError:
    return UserError(
        "is not a Qwen2 configuration", where=file, value=value, remedy="Use the original file of the model folder"
    )
