"""The text tokenizer of CosyVoice 1: byte-pair encoding by the ``tiktoken`` library with Whisper's special tokens.

The vocabulary is a ``.tiktoken`` file, either Whisper's or the one in the CosyVoice repository.
"""

import base64
from collections.abc import Sequence
from importlib import util
from pathlib import Path

from tasks.errors import UserError, require_library
from tasks.models.cosyvoice.text.special_tokens import LANGUAGES, cosyvoice1_tokens, whisper_tokens

DOWNLOAD_AGAIN = "Copy or download it again"
WHISPER, COSYVOICE = "multilingual", "multilingual_zh_ja_yue_char_del"
GPT2_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


class WhisperTokenizer:
    """Converts between text and token ids.

    Args:
        ranks: the ``.tiktoken`` file, one line per piece: base64 and rank.
        special: special tokens; their ids follow those of the pieces.

    Raises:
        UserError: ``tiktoken`` or the file is missing, or the file is not a ``.tiktoken`` vocabulary.
    """

    def __init__(self, ranks: Path, special: Sequence[str]) -> None:
        pieces = _read_ranks(ranks)
        tiktoken = require_library("tiktoken", extra="llm", why="the text tokenizer of CosyVoice 1 needs it")
        self._encoding = tiktoken.Encoding(
            name=ranks.stem,
            pat_str=GPT2_PATTERN,
            mergeable_ranks=pieces,
            special_tokens={token: len(pieces) + place for place, token in enumerate(special)},
            explicit_n_vocab=len(pieces) + len(special),
        )

    def __len__(self) -> int:
        return int(self._encoding.n_vocab)

    def encode(self, text: str) -> list[int]:
        """Special tokens in the text are encoded as such: the original front end allows all of them."""
        return list(self._encoding.encode(text, allowed_special="all"))

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._encoding.decode(list(tokens)))


def whisper_tokenizer(
    *, multilingual: bool = True, num_languages: int = 99, language: str = "en", task: str = "transcribe", folder: Path
) -> WhisperTokenizer:
    """Tokenizer with Whisper's vocabulary.

    Args:
        multilingual: must be True.
        num_languages: number of language tokens; the ids of the tokens after them depend on it.
        language, task: kept for compatibility with the original config; ignored.
        folder: model folder with ``multilingual.tiktoken``; without it that of an installed ``openai-whisper`` is used.

    Raises:
        UserError: an option is not supported; as WhisperTokenizer.
    """
    _check_options(multilingual, num_languages)
    return WhisperTokenizer(_vocabulary_file(WHISPER, folder), whisper_tokens(num_languages))


def cosyvoice_tokenizer(
    *, multilingual: bool = True, num_languages: int = 99, language: str = "en", task: str = "transcribe", folder: Path
) -> WhisperTokenizer:
    """Tokenizer with ``multilingual_zh_ja_yue_char_del.tiktoken`` of the CosyVoice repository; as whisper_tokenizer."""
    _check_options(multilingual, num_languages)
    return WhisperTokenizer(_vocabulary_file(COSYVOICE, folder), cosyvoice1_tokens(num_languages))


def _check_options(multilingual: bool, languages: int) -> None:
    if not multilingual:
        raise UserError(
            "all supported models use the multilingual vocabulary",
            where="get_tokenizer.multilingual",
            value=multilingual,
            remedy="Set multilingual: True in the model YAML",
        )
    if not 1 <= languages <= len(LANGUAGES):
        raise UserError(
            "unsupported number of languages",
            where="get_tokenizer.num_languages",
            value=languages,
            remedy=f"Set 1 to {len(LANGUAGES)} in the model YAML",
        )


def _vocabulary_file(name: str, folder: Path) -> Path:
    """The vocabulary file in the model folder or in the ``whisper`` package, which is not imported."""
    file = f"{name}.tiktoken"
    for place in (folder, *_whisper_assets()):
        if (place / file).is_file():
            return place / file
    source = "or pip install openai-whisper" if name == WHISPER else "from the repository's cosyvoice/tokenizer/assets"
    raise UserError("the text vocabulary is missing", where=folder / file, remedy=f"Copy it into the folder, {source}")


def _whisper_assets() -> list[Path]:
    package = util.find_spec("whisper")
    return [Path(place) / "assets" for place in (package.submodule_search_locations or ())] if package else []


def _read_ranks(ranks: Path) -> dict[bytes, int]:
    # tiktoken.load.load_tiktoken_bpe caches files by path and would miss a replaced one.
    try:
        lines = (line.split() for line in ranks.read_text(encoding="ascii").splitlines() if line.strip())
        pieces = {base64.b64decode(piece, validate=True): int(rank) for piece, rank in lines}
    except OSError as error:
        raise UserError("cannot be read", where=ranks, value=error.strerror, remedy="Check the path") from error
    except ValueError as error:
        raise UserError("is not a .tiktoken vocabulary", where=ranks, value=error, remedy=DOWNLOAD_AGAIN) from error
    if not pieces or sorted(pieces.values()) != list(range(len(pieces))):
        raise UserError(
            "the ranks are not 0, 1, 2, ...", where=ranks, value=f"{len(pieces)} pieces", remedy=DOWNLOAD_AGAIN
        )
    return pieces
