"""Of a model YAML, only what a part is built from counts."""

from pathlib import Path

import pytest

from tasks.freshness.digests import Digests
from tasks.freshness.yaml_part import part_digest
from tasks.job import sha256
from tests.support.folders import config_of


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    path = tmp_path / "cosyvoice2.yaml"
    path.write_text(config_of("cosyvoice2").read_text())
    return path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("chunk_size: 5", "chunk_size: 5 # frames", set()),
        ("    input_size: 48\n", "    input_size:   48\n\n", set()),
        ("    input_size: 48\n    output_size: 80\n", "    output_size: 80\n    input_size: 48\n", set()),
        ("n_fft: 1920", "n_fft: 1024", set()),  # of a training setting
        ("chunk_size: 5", "chunk_size: 6", {"flow"}),
        ("token_mel_ratio: 2", "token_mel_ratio: 3", {"flow"}),
        ("sample_rate: 24000", "sample_rate: 22050", {"hift"}),
        ("nsf_alpha: 0.1", "nsf_alpha: 0.2", {"hift"}),
        ("tau_r: 0.1", "tau_r: 0.2", {"llm"}),
        ("hifigan.generator.HiFTGenerator", "hifigan.generator.CausalHiFTGenerator", {"hift"}),
        ("act_fn: 'gelu'", "act_fn: &a 'gelu'", set()),
    ],
)
def test_a_change_concerns_the_parts_that_it_reaches(yaml: Path, old: str, new: str, changed: set[str]) -> None:
    before = {part: part_digest(yaml, [part]) for part in ("llm", "flow", "hift")}
    edit(yaml, old, new)
    assert {part for part in before if part_digest(yaml, [part]) != before[part]} == changed
    assert None not in before.values()


def test_several_records_count_together_and_each_must_be_there(yaml: Path) -> None:
    one, both = part_digest(yaml, ["llm"]), part_digest(yaml, ["llm", "get_tokenizer"])
    edit(yaml, "    skip_special_tokens: True", "    skip_special_tokens: True\n    version: cosyvoice3")
    assert part_digest(yaml, ["llm"]) == one
    assert part_digest(yaml, ["llm", "get_tokenizer"]) not in {None, both}
    assert part_digest(yaml, ["llm", "none"]) is None


UNREADABLE = [
    "a: 1\na: 2", "flow: [", "[" * 10_000, "", "other: 1", "flow: 1\n" + "#" * 300_000,
    'flow: "\\UFFFFFFFF"', 'flow: "\\U00110000"', "%YAML " + "9" * 5000 + ".1\n---\nflow: 1",
]  # fmt: skip


@pytest.mark.parametrize("text", UNREADABLE, ids=lambda text: text[:8])
def test_of_a_file_that_cannot_be_read_every_byte_counts(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    assert Digests(tmp_path / "memo.json").of_part(path, ["flow"]) == sha256(path)


def test_an_alias_to_what_contains_it_and_a_bomb_of_aliases_end(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("flow: &a [*a]\n")
    assert part_digest(path, ["flow"])
    lines = ["a0: &a0 [1]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 60)), "flow: *a59"]
    path.write_text("\n".join(lines))
    assert part_digest(path, ["flow"])
