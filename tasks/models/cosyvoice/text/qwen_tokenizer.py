"""The text tokenizer of CosyVoice 2 and 3: Qwen2's, from the ``transformers`` library, with additional tokens."""

import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.errors import UserError, reason, require_library
from tasks.models.cosyvoice.text.qwen_config import read_qwen_config
from tasks.models.cosyvoice.text.special_tokens import COSYVOICE2_TOKENS, COSYVOICE3_TOKENS
from tasks.user_files import MAX_TEXT_BYTES, read_bounded, read_json

REQUIRED = ("vocab.json", "merges.txt")
JSON_FILES = ("vocab.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
END_OF_TEXT = "<|endoftext|>"
VOCABULARIES = {"cosyvoice2": COSYVOICE2_TOKENS, "cosyvoice3": COSYVOICE3_TOKENS}


class QwenTokenizer:
    """Converts between text and token ids; constructor arguments are those of the original config.

    Args:
        token_path: folder with vocab.json, merges.txt and tokenizer_config.json, e.g. ``CosyVoice-BlankEN``.
        skip_special_tokens: omit special tokens from decoded text.
        version: selects the additional tokens, ``cosyvoice2`` or ``cosyvoice3``.

    Raises:
        UserError: ``transformers`` is missing, the version is unknown, or the folder has no readable tokenizer.
    """

    def __init__(
        self, *, token_path: str | Path, skip_special_tokens: bool = True, version: str = "cosyvoice2"
    ) -> None:
        if version not in VOCABULARIES:
            known = " or ".join(VOCABULARIES)
            raise UserError("unknown tokenizer version", where="version", value=version, remedy=f"Set {known}")
        self._tokenizer = _load(Path(token_path))
        self._tokenizer.add_special_tokens({"eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT})
        self._tokenizer.add_tokens(list(VOCABULARIES[version]), special_tokens=True)
        self._skip_special_tokens = skip_special_tokens

    def __len__(self) -> int:
        """The largest token id plus one: the number of rows that the text embedding needs."""
        return max(self._tokenizer.get_vocab().values()) + 1

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer([text])["input_ids"][0])

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=self._skip_special_tokens))


def _load(folder: Path) -> Any:
    transformers = require_library("transformers", extra="llm", why="the text tokenizers of CosyVoice 2 and 3 need it")
    _check_files(folder)
    try:
        library = transformers.AutoTokenizer
        tokenizer = library.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        tokenizer(["a"])  # some settings are used, and found to be wrong, only now
        return tokenizer
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # undocumented ones; a panic of the library's Rust part is no Exception
        raise UserError(
            "transformers cannot read the tokenizer", where=folder, value=_cause(error), remedy="Download it again"
        ) from error


def _check_files(folder: Path) -> None:
    """Require files that can be read: the library would wait for a named pipe."""
    for name in REQUIRED:
        if not (folder / name).exists():
            raise UserError("no such file", where=folder / name, remedy="Copy or download the tokenizer's files")
    for name in JSON_FILES:
        if os.path.lexists(folder / name):
            read_json(folder / name)
    if os.path.lexists(folder / "config.json"):  # the library finds the tokenizer's class by it
        read_qwen_config(folder / "config.json", complete=False)
    read_bounded(folder / "merges.txt", most=MAX_TEXT_BYTES)


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {reason(error)}"
