"""The text tokenizer that a model folder describes, and whether its tokens have rows in the text embedding."""

from pathlib import Path
from typing import Protocol

from tasks.errors import UserError
from tasks.models.cosyvoice.folder import read_folder_yaml
from tasks.models.cosyvoice.hyperyaml.builder import build
from tasks.models.cosyvoice.hyperyaml.reader import Call

TAKES_FOLDER = {"whisper.tokenizer.get_tokenizer", "cosyvoice.tokenizer.tokenizer.get_tokenizer"}


class TextTokenizer(Protocol):
    """Text to tokens and back."""

    def __len__(self) -> int:
        """The largest token plus one."""
        ...

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; special tokens in it are recognised."""
        ...

    def decode(self, tokens: list[int]) -> str:
        """Text of tokens."""
        ...


def load_tokenizer(config: Path) -> TextTokenizer:
    """The tokenizer that the model YAML names under ``get_tokenizer``.

    Raises:
        UserError: the YAML names none or an unknown one, or its files or its library are missing.
    """
    document = read_folder_yaml(config)
    described = document.get("get_tokenizer")
    if not isinstance(described, Call):
        raise UserError("does not describe a tokenizer", where=config, value=described, remedy="Give a model's YAML")
    if described.target in TAKES_FOLDER:
        described.arguments["folder"] = config.parent
    tokenizer: TextTokenizer = build(Call(described.target, described.line, False, described.arguments), document)
    return tokenizer


def require_rows(tokenizer: TextTokenizer, rows: int, *, config: Path) -> None:
    """Every text token must have a row in the text embedding.

    Raises:
        UserError: the tokenizer makes tokens that the model has never had.
    """
    if len(tokenizer) > rows:
        raise UserError(
            "the tokenizer does not match the model: its tokens reach beyond the text embedding",
            where=config.parent,
            value=f"{len(tokenizer)} tokens, {rows} rows",
            remedy="Use the tokenizer files that were published with these weights",
        )
