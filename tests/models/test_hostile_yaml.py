"""A model YAML that is made to do harm, or damaged, ends in one error that names the file: no hang, no large memory."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.models.cosyvoice.hyperyaml.reader import read_yaml
from tests.support.errors import error_of
from tests.support.project import ROOT

MOST_MEMORY = 2**30
MOST_SECONDS = 120  # of a child that refuses at once; only a hang takes so long
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {k0: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], k{n}: 1}}\n" for n in range(1, 40))
REFERENCES = "a0: [x, x]\n" + "".join(f"a{n}: [{', '.join([f'!ref <a{n - 1}>'] * 6)}]\n" for n in range(1, 9))
SUMS = "a0: 1\n" + "".join(f"a{n}: !ref <a{n - 1}> + <a{n - 1}>\n" for n in range(1, 29))
TEXTS = "a0: xxxxxxxx\n" + "".join(f"a{n}: !ref <a{n - 1}><a{n - 1}>\n" for n in range(1, 29))


def refusal(folder: Path, text: str | bytes, key: str = "a") -> str:
    path = folder / "model.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    error = error_of(lambda: read_yaml(path).get(key))
    assert error.where.startswith(str(path))
    assert error.remedy
    assert len(str(error)) < 1200
    return str(error).replace(str(path), "model.yaml")


@pytest.mark.parametrize(
    ("text", "key", "shown"),
    [
        (LAUGHS, "a11", "when its aliases are written out"),
        (MERGES, "a39", "when its aliases are written out"),
        (REFERENCES, "a8", "when its references are resolved"),
        (SUMS, "a28", "when its references are resolved"),
        (TEXTS, "a28", "a text of more than 500 characters"),
        ("a: &a [*a]\n", "a", "model.yaml:1: contains itself"),
        ("b: 1\na: &a\n  <<: *a\n", "a", "model.yaml:2: contains itself"),
        ("a: " + "[" * 500, "a", "more than 40 levels deep"),
        ("a: " + "[" * 500_000, "a", "more than 40 levels deep"),
        ("a: [" + "1," * 400_000 + "]", "a", "has more than 20000 values"),
        ("a: 1 #" + "x" * 2**20, "a", "is too large (got 1048582 bytes, allowed 1048576)"),
    ],
    ids=str.split("aliases merges references sums texts itself self-merge deep deeper long large"),
)
def test_what_expands_without_end_is_refused(tmp_path, text, key, shown):
    assert shown in refusal(tmp_path, text, key)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("1" * 5000, "model.yaml:2: a number of more than 40 characters"),
        ("0x" + "f" * 5000, "model.yaml:2: a number of more than 40 characters"),
        ("1" + ":59" * 5000, "model.yaml:2: a number of more than 40 characters"),
        ("!!int abc", "model.yaml:2: is not a valid int (got abc)"),
        ("!!int ''", "model.yaml:2: is not a valid int"),
        ("!!float abc", "model.yaml:2: is not a valid float (got abc)"),
        ("!!bool abc", "model.yaml:2: is not a valid bool (got abc)"),
        ("!!timestamp x", "model.yaml:2: is not a valid timestamp (got x)"),
        ("2024-13-45", "model.yaml:2: is not a valid timestamp (got 2024-13-45)"),
        ("0x_", "model.yaml:2: is not a valid int (got 0x_)"),
        ("!!int 0x", "model.yaml:2: is not a valid int (got 0x)"),
        ("!!omap x", "model.yaml:2"),
        ("!!seq x", "model.yaml:2"),
        ('"\\UFFFFFFFF"', "is not a YAML file"),
        ('"\\ud800"', "model.yaml:2: is not a valid str"),
        ("!ref <b> * 1e308 * 10", "model.yaml:2: a reference gives too large a number"),
        ("!ref <b> * 99999999999999999999", "model.yaml:2: a reference gives too large a number"),
        ("!ref " + "(" * 400 + "<b>" + ")" * 400, "model.yaml:2: a reference of more than 500 characters"),
        ("!ref " + "(" * 240 + "<b>" + ")" * 240, "model.yaml:2: a reference cannot be evaluated"),
        ("\tx", "model.yaml:2: is not a YAML file"),
        ("\0", "model.yaml:2: is not a YAML file"),
        ("{? [b] : 1}", "model.yaml:2: is not a YAML file"),
        ("*nothing", "model.yaml:2: is not a YAML file"),
    ],
)  # fmt: skip
def test_a_value_that_is_none_is_reported_with_its_line(tmp_path, value, shown):
    assert shown in refusal(tmp_path, f"b: 1\na: {value}\n")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a: 1\nb: 2\na: 3\n", "lines 1 and 3"),
        ("b: 1\na: !new:some.Part\n  heads: 4\n  width: 8\n  heads: 2\n", "lines 3 and 5"),
        ("a: 1\ntraining: {lr: 1, \n  lr: 2}\n", "lines 2 and 3"),
    ],
)
def test_a_key_that_is_given_twice_is_refused_with_both_lines(tmp_path, text, lines):
    assert f"a key is given twice, in {lines}" in refusal(tmp_path, text)


def test_a_key_may_replace_a_merged_one(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text("base: &base {heads: 4, width: 8}\na:\n  <<: *base\n  heads: 2\n")
    assert read_yaml(path).get("a") == {"heads": 2, "width": 8}


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("b: 1\n# 流匹配\na: 1\n".encode("gbk"), "model.yaml:2: is not UTF-8 (got b'\\xc1\\xf7"),
        (b"a: caf\xe9\n", "iconv -f ENCODING -t UTF-8"),
        (bytes(range(256)) * 400, "is a binary file, not text"),
        (b"", "contains no keys"),
    ],
    ids=["gbk", "latin-1", "binary", "empty"],
)
def test_what_is_not_text_in_utf8_is_named(tmp_path, content, shown):
    assert shown in refusal(tmp_path, content)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path, encoding):
    path = tmp_path / "model.yaml"
    path.write_bytes("a: 流\n".encode(encoding))
    assert read_yaml(path).content == {"a": "流"}


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100 * 2**30)


@pytest.mark.parametrize(
    "make",
    [_fifo, _sparse, Path.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path)],
    ids=["fifo", "sparse", "folder", "device", "link to itself"],
)
def test_what_is_no_file_of_a_few_kilobytes_is_refused_at_once(tmp_path, make):
    path = tmp_path / "model.yaml"
    make(path)
    code = (
        "import sys; from pathlib import Path; from tasks.models.cosyvoice.hyperyaml.reader import read_yaml\n"
        "try: read_yaml(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=MOST_SECONDS,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY)),
    )
    assert done.stdout.startswith(f"UserError {path}: ")
