"""The text tokenizer of a model folder, and the check that it matches the text embedding."""

from pathlib import Path
from typing import Protocol

from tasks.errors import UserError
from tasks.models.cosyvoice.folder import read_folder_yaml
from tasks.models.cosyvoice.hyperyaml.builder import build
from tasks.models.cosyvoice.hyperyaml.records import Call

NEEDS_FOLDER = {"whisper.tokenizer.get_tokenizer", "cosyvoice.tokenizer.tokenizer.get_tokenizer"}


class TextTokenizer(Protocol):
    """Converts between text and token ids."""

    def __len__(self) -> int:
        """The largest token id plus one."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; special tokens in the text are recognized."""
        ...

    def decode(self, tokens: list[int]) -> str:
        """Text of token ids."""
        ...


def load_tokenizer(config: Path) -> TextTokenizer:
    """The tokenizer under ``get_tokenizer`` of the model YAML.

    Raises:
        UserError: the YAML has no tokenizer or an unknown one, or its files or its library are missing.
    """
    document = read_folder_yaml(config)
    described = document.get("get_tokenizer")
    if not isinstance(described, Call):
        raise UserError("get_tokenizer is not a tokenizer", where=config, value=described, remedy="Use a model YAML")
    if described.target in NEEDS_FOLDER:
        described.arguments["folder"] = config.parent
    tokenizer: TextTokenizer = build(Call(described.target, described.line, False, described.arguments), document)
    return tokenizer


def require_rows(tokenizer: TextTokenizer, rows: int, *, config: Path) -> None:
    """Require a row of the text embedding, of ``rows`` rows, for every token id.

    Raises:
        UserError: the tokenizer has more tokens than the embedding has rows.
    """
    if len(tokenizer) > rows:
        raise UserError(
            "the tokenizer does not match the model: it has more tokens than the text embedding has rows",
            where=config.parent,
            value=f"{len(tokenizer)} tokens, {rows} rows",
            remedy="Use the tokenizer files that belong to these weights",
        )
