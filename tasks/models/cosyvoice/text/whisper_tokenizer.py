"""The text tokenizer of CosyVoice 1: a byte-pair vocabulary of the ``tiktoken`` library with Whisper's special tokens.

The vocabulary is a ``.tiktoken`` file: Whisper's, or the one that CosyVoice's own repository holds.
"""

import base64
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.models.cosyvoice.text.special_tokens import LANGUAGES, cosyvoice1_tokens, whisper_tokens

AGAIN = "Copy or download it again"
WHISPER, OWN = "multilingual", "multilingual_zh_ja_yue_char_del"
PIECES = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""  # GPT-2's


class WhisperTokenizer:
    """Text to tokens and back.

    Args:
        ranks: the ``.tiktoken`` file: a line for each piece, base64 and rank.
        special: special tokens, which get the ids after the pieces.

    Raises:
        UserError: ``tiktoken`` or the file is missing, or the file is not such a vocabulary.
    """

    def __init__(self, ranks: Path, special: Sequence[str]) -> None:
        pieces = _read(ranks)
        self._encoding = _tiktoken().Encoding(
            name=ranks.stem,
            pat_str=PIECES,
            mergeable_ranks=pieces,
            special_tokens={token: len(pieces) + place for place, token in enumerate(special)},
            explicit_n_vocab=len(pieces) + len(special),
        )

    def __len__(self) -> int:
        return int(self._encoding.n_vocab)

    def encode(self, text: str) -> list[int]:
        """Special tokens in the text are what they say they are, as published callers ask for."""
        return list(self._encoding.encode(text, allowed_special="all"))

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._encoding.decode(list(tokens)))


def whisper_tokenizer(
    *, multilingual: bool = True, num_languages: int = 99, language: str = "en", task: str = "transcribe", folder: Path
) -> WhisperTokenizer:
    """Whisper's own vocabulary; ``language`` and ``task`` are published and shape only prompts, which no one asks for.

    Args:
        folder: of the model; its ``multilingual.tiktoken`` is used, or that of an installed ``openai-whisper``.
    """
    _require_multilingual(multilingual)
    return WhisperTokenizer(_found(WHISPER, folder), whisper_tokens(_checked(num_languages)))


def own_tokenizer(
    *, multilingual: bool = True, num_languages: int = 99, language: str = "en", task: str = "transcribe", folder: Path
) -> WhisperTokenizer:
    """The vocabulary that CosyVoice's repository holds as ``multilingual_zh_ja_yue_char_del.tiktoken``; as above."""
    _require_multilingual(multilingual)
    return WhisperTokenizer(_found(OWN, folder), cosyvoice1_tokens(_checked(num_languages)))


def _require_multilingual(multilingual: bool) -> None:
    if not multilingual:
        raise UserError(
            "no published model is not", where="get_tokenizer", value="multilingual: False", remedy="Say True"
        )


def _checked(languages: int) -> int:
    known = len(LANGUAGES)
    if not 1 <= languages <= known:
        raise UserError("too many languages", where="num_languages", value=languages, remedy=f"Say 1 to {known}")
    return languages


def _found(name: str, folder: Path) -> Path:
    """The vocabulary's file in the model folder, or in Whisper's package, which is not imported."""
    file = f"{name}.tiktoken"
    for place in (folder, *_whisper_assets()):
        if (place / file).is_file():
            return place / file
    source = "or pip install openai-whisper" if name == WHISPER else "from the repository's cosyvoice/tokenizer/assets"
    raise UserError("the text vocabulary is missing", where=folder / file, remedy=f"Copy it into the folder, {source}")


def _whisper_assets() -> list[Path]:
    package = util.find_spec("whisper")
    return [Path(place) / "assets" for place in (package.submodule_search_locations or ())] if package else []


def _read(ranks: Path) -> dict[bytes, int]:
    try:
        lines = (line.split() for line in ranks.read_text(encoding="ascii").splitlines() if line.strip())
        pieces = {base64.b64decode(piece, validate=True): int(rank) for piece, rank in lines}
    except OSError as error:
        raise UserError("cannot be read", where=ranks, value=error.strerror, remedy="Check the path") from error
    except ValueError as error:
        raise UserError("is not a .tiktoken vocabulary", where=ranks, value=error, remedy=AGAIN) from error
    if not pieces or sorted(pieces.values()) != list(range(len(pieces))):
        raise UserError("its ranks are not 0, 1, 2, ...", where=ranks, value=f"{len(pieces)} pieces", remedy=AGAIN)
    return pieces


def _tiktoken() -> Any:
    try:
        import tiktoken
    except ImportError as error:
        raise UserError(
            "the text tokenizer of CosyVoice 1 needs the tiktoken library",
            where="tiktoken",
            remedy="Install it: pip install 'voxkiln[llm]'",
        ) from error
    return tiktoken
