"""Text tokenizers of the families compared with recorded cases, and folders with defective tokenizers."""

import base64
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.models.cosyvoice.text.qwen_tokenizer import QwenTokenizer
from tasks.models.cosyvoice.text.special_tokens import (
    COSYVOICE2_TOKENS,
    COSYVOICE3_TOKENS,
    LANGUAGES,
    cosyvoice1_tokens,
    whisper_tokens,
)
from tasks.models.cosyvoice.text.tokenizer import load_tokenizer, require_rows
from tests.support.errors import error_of
from tests.support.folders import YAML, config_of
from tests.support.golden_cases import GOLDEN, golden_record

FAMILIES = pytest.mark.parametrize("family", ["cosyvoice2", "cosyvoice3"])
OWN = "multilingual_zh_ja_yue_char_del.tiktoken"


@FAMILIES
def test_recorded_texts_become_the_recorded_tokens_and_text_again(family: str) -> None:
    tokenizer, recorded = load_tokenizer(config_of(family)), golden_record(family)["tokenizer"]
    for case in recorded["cases"]:
        assert tokenizer.encode(case["text"]) == case["ids"]
        assert tokenizer.decode(case["ids"]) == case["decoded"]


@FAMILIES
def test_special_tokens_have_the_recorded_ids(family: str) -> None:
    tokenizer, recorded = load_tokenizer(config_of(family)), golden_record(family)["tokenizer"]
    assert len(tokenizer) == recorded["size_after_added"]
    assert {token: tokenizer.encode(token) for token in recorded["special_ids"]} == {
        token: [number] for token, number in recorded["special_ids"].items()
    }


def test_no_special_token_is_listed_twice() -> None:
    for tokens in (COSYVOICE2_TOKENS, COSYVOICE3_TOKENS, LANGUAGES, whisper_tokens(100), cosyvoice1_tokens(105)):
        assert len(tokens) == len(set(tokens))


def test_special_tokens_can_be_kept_in_decoded_text() -> None:
    folder = GOLDEN / "cosyvoice2" / "CosyVoice-BlankEN"
    tokenizer = QwenTokenizer(token_path=folder, skip_special_tokens=False)
    assert tokenizer.decode(tokenizer.encode("a[laughter]b")) == "a[laughter]b"


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        QwenTokenizer(token_path=GOLDEN / "cosyvoice2" / "CosyVoice-BlankEN", version="cosyvoice4")
    assert (caught.value.where, caught.value.value) == ("version", "cosyvoice4")


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_tokenizer_file_is_named(tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(GOLDEN / "cosyvoice2" / "CosyVoice-BlankEN", tmp_path / "qwen")
    (folder / name).unlink()
    assert name in error_of(QwenTokenizer, token_path=folder).where


def test_a_tokenizer_that_the_library_cannot_read_is_reported_with_its_folder(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN / "cosyvoice2" / "CosyVoice-BlankEN", tmp_path / "qwen")
    (folder / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(UserError) as caught:
        QwenTokenizer(token_path=folder)
    assert caught.value.where == str(folder)


def test_a_tokenizer_larger_than_the_text_embedding_is_refused_with_both_sizes() -> None:
    tokenizer = load_tokenizer(config_of("cosyvoice3"))
    require_rows(tokenizer, 601, config=config_of("cosyvoice3"))
    assert error_of(require_rows, tokenizer, 600, config=config_of("cosyvoice3")).value == "601 tokens, 600 rows"


def test_without_the_library_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'voxkiln[llm]'" in error_of(load_tokenizer, config_of("cosyvoice2")).remedy


def cosyvoice1_folder(folder: Path, target: str, *, languages: int, vocabulary: str) -> Path:
    """A CosyVoice 1 YAML with a tokenizer, and a vocabulary of all bytes and two words."""
    pieces = [bytes([number]) for number in range(256)] + [b"he", b"hel", b"lo", b"hello"]
    lines = (f"{base64.b64encode(piece).decode()} {rank}" for rank, piece in enumerate(pieces))
    (folder / vocabulary).write_text("\n".join(lines) + "\n")
    text = config_of("cosyvoice1").read_text()
    described = f"get_tokenizer: !name:{target}\n    multilingual: True\n    num_languages: {languages}\n"
    path = folder / YAML["cosyvoice1"]
    path.write_text(f"{text}\n{described}    language: 'en'\n    task: 'transcribe'\n")
    return path


@pytest.mark.parametrize(
    ("target", "languages", "vocabulary", "size"),
    [
        # of the original 51,866 tokens, 50,257 are pieces of the vocabulary
        ("whisper.tokenizer.get_tokenizer", 100, "multilingual.tiktoken", 51866 - 50257),
        ("cosyvoice.tokenizer.tokenizer.get_tokenizer", 105, OWN, 2 + 105 + 15 + 6 + 30 + 20 + 1501),
    ],
)
def test_cosyvoice_1_has_whispers_special_tokens_after_its_pieces(
    tmp_path: Path, target: str, languages: int, vocabulary: str, size: int
) -> None:
    pytest.importorskip("tiktoken")
    tokenizer = load_tokenizer(cosyvoice1_folder(tmp_path, target, languages=languages, vocabulary=vocabulary))
    assert len(tokenizer) == 260 + size
    assert tokenizer.encode("hello<|endoftext|><|zh|>") == [259, 260, 263]
    assert tokenizer.decode([259, 32, 228, 189, 160]) == "hello 你"


def test_a_missing_vocabulary_of_cosyvoice_1_is_named_with_its_source(tmp_path: Path) -> None:
    target = "cosyvoice.tokenizer.tokenizer.get_tokenizer"
    config = cosyvoice1_folder(tmp_path, target, languages=105, vocabulary=OWN)
    (tmp_path / OWN).unlink()
    error = error_of(load_tokenizer, config)
    assert error.where == str(tmp_path / OWN)
    assert "cosyvoice/tokenizer/assets" in error.remedy


@pytest.mark.parametrize(("option", "value", "given"), [("multilingual", False, "True"), ("num_languages", 106, "105")])
def test_an_unsupported_option_of_the_cosyvoice_1_tokenizer_is_named(
    tmp_path: Path, option: str, value: object, given: str
) -> None:
    target = "cosyvoice.tokenizer.tokenizer.get_tokenizer"
    config = cosyvoice1_folder(tmp_path, target, languages=105, vocabulary=OWN)
    config.write_text(config.read_text().replace(f"{option}: {given}", f"{option}: {value}"))
    with pytest.raises(UserError) as caught:
        load_tokenizer(config)
    line = next(n for n, text in enumerate(config.read_text().splitlines(), start=1) if "get_tokenizer" in text)
    assert (caught.value.where, caught.value.value) == (f"{config}:{line}, get_tokenizer.{option}", value)


@pytest.mark.parametrize("text", ["", "not base64 at all", "AAA= 0\nAAE= 7\n"])
def test_a_damaged_vocabulary_of_cosyvoice_1_is_refused(tmp_path: Path, text: str) -> None:
    target = "cosyvoice.tokenizer.tokenizer.get_tokenizer"
    config = cosyvoice1_folder(tmp_path, target, languages=105, vocabulary=OWN)
    (tmp_path / OWN).write_text(text)
    assert error_of(load_tokenizer, config).where == str(tmp_path / OWN)


def test_a_yaml_without_a_tokenizer_is_reported(tmp_path: Path) -> None:
    (tmp_path / "cosyvoice.yaml").write_text(json.dumps({"flow": 1}))
    error = error_of(load_tokenizer, tmp_path / "cosyvoice.yaml")
    assert error.where == str(tmp_path / "cosyvoice.yaml")
    assert "get_tokenizer" in str(error)


@pytest.mark.parametrize(
    "name", ["vocab.json", "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "merges.txt"]
)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "is a named pipe"),
        (Path.mkdir, "is a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device"),
        (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 10**11), "is too large"),
    ],
    ids=["pipe", "folder", "device", "sparse"],
)
def test_a_tokenizer_file_that_is_no_file_is_refused(
    tmp_path: Path, name: str, make: Callable[[Path], object], message: str
) -> None:
    folder = shutil.copytree(GOLDEN / "cosyvoice2" / "CosyVoice-BlankEN", tmp_path / "q")
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    error = error_of(QwenTokenizer, token_path=folder)
    assert error.where == str(folder / name)
    assert message in error.what


JSON_FILES = ("vocab.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe\0" * 10**5, b'{"a": ' * 10**5, b'{"a": ' + b"9" * 10**5 + b"}"],
    ids=["empty", "cut", "list", "binary", "deep", "digits"],
)
def test_a_damaged_tokenizer_file_is_refused_in_one_short_line(tmp_path: Path, name: str, content: bytes) -> None:
    folder = shutil.copytree(GOLDEN / "cosyvoice2" / "CosyVoice-BlankEN", tmp_path / "q")
    (folder / name).write_bytes(content)
    message = str(error_of(QwenTokenizer, token_path=folder))
    assert message.startswith(f"{folder}/{name}: ")
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", {"version": 5, "model": None}),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": [["a", "b"]]}}),
        ("vocab.json", {"a": "one"}),
        ("added_tokens.json", {"a": 10**30}),
        ("tokenizer_config.json", {"tokenizer_class": 5}),
        ("tokenizer_config.json", {"model_max_length": "x"}),
        ("config.json", {"model_type": "qwen2", "num_hidden_layers": 10**9}),
        ("tokenizer_config.json", {"tokenizer_class": "X", "auto_map": {"AutoTokenizer": ["x.X", None]}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": []}}),
        ("special_tokens_map.json", {"eos_token": {"a": 1}}),
        ("config.json", {"model_type": ["qwen2"]}),
    ],
)
def test_no_content_of_a_tokenizer_file_ends_in_a_traceback_or_a_question(
    tmp_path: Path, name: str, content: dict[str, object]
) -> None:
    folder = shutil.copytree(GOLDEN / "cosyvoice2" / "CosyVoice-BlankEN", tmp_path / "q")
    (folder / name).write_text(json.dumps(content))
    with suppress(UserError):  # some of these are not read, or are repaired by the library
        QwenTokenizer(token_path=folder)
