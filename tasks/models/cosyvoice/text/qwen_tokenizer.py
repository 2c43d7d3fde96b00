"""The text tokenizer of CosyVoice 2 and 3: that of Qwen2, from the ``transformers`` library, with their own tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.models.cosyvoice.text.special_tokens import COSYVOICE2, COSYVOICE3

END_OF_TEXT = "<|endoftext|>"
VOCABULARIES = {"cosyvoice2": COSYVOICE2, "cosyvoice3": COSYVOICE3}


class QwenTokenizer:
    """Text to tokens and back; constructor arguments as published.

    Args:
        token_path: folder with vocab.json, merges.txt and tokenizer_config.json, ``CosyVoice-BlankEN`` of a model.
        skip_special_tokens: leave special tokens out of decoded text.
        version: whose tokens are added, ``cosyvoice2`` or ``cosyvoice3``.

    Raises:
        UserError: ``transformers`` is missing, an unknown version, or a folder without a readable tokenizer.
    """

    def __init__(
        self, *, token_path: str | Path, skip_special_tokens: bool = True, version: str = "cosyvoice2"
    ) -> None:
        if version not in VOCABULARIES:
            known = " or ".join(VOCABULARIES)
            raise UserError("a tokenizer that is not known here", where="version", value=version, remedy=f"Say {known}")
        self._tokenizer = _loaded(Path(token_path))
        self._tokenizer.add_special_tokens({"eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT})
        self._tokenizer.add_tokens(list(VOCABULARIES[version]), special_tokens=True)
        self._skip_special_tokens = skip_special_tokens

    def __len__(self) -> int:
        """The largest token plus one: rows that a text embedding must have."""
        return max(self._tokenizer.get_vocab().values()) + 1

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer([text])["input_ids"][0])

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=self._skip_special_tokens))


def _loaded(folder: Path) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            "the text tokenizers of CosyVoice 2 and 3 need the transformers library",
            where="transformers",
            remedy="Install it: pip install 'voxkiln[llm]'",
        ) from error
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise UserError("no such file", where=folder / name, remedy="Copy or download the tokenizer's files")
    try:
        return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the library raises whatever its many readers raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            "is not a tokenizer that transformers can read", where=folder, value=reason, remedy="Download it again"
        ) from error
