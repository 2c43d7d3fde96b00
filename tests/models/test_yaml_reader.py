"""The model YAML is data: its tags are read; nothing that it names is imported or called."""

import pytest

from tasks.errors import UserError
from tasks.models.cosyvoice.hyperyaml.reader import read_yaml
from tasks.models.cosyvoice.hyperyaml.records import Call
from tests.support.errors import error_of
from tests.support.folders import YAML, config_of


@pytest.fixture
def read(tmp_path):
    def read_text(text, **options):
        path = tmp_path / "cosyvoice2.yaml"
        path.write_text(text, encoding="utf-8")
        return read_yaml(path, **options)

    return read_text


@pytest.mark.parametrize("family", YAML)
def test_every_key_of_the_original_layouts_can_be_read(family):
    document = read_yaml(config_of(family))
    assert {"sample_rate", "llm", "flow", "hift"} <= set(document.content)
    for key in document.content:
        document.get(key)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("<a>", 6),
        ("<a> * <b>", 24),
        ("(<a> + 2) * <b>", 32),
        ("<a> // <b>", 1),
        ("-<a> % 4", 2),
        ("<nested.deep[1]>", 8),
        ("<part.width>", 3),
        ("<name>/model", "x/model"),
    ],
)
def test_a_reference_gives_a_value_or_the_arithmetic_of_values(read, expression, value):
    document = read(
        f"a: 6\nb: 4\nname: x\nnested: {{deep: [7, 8]}}\npart: !new:some.Part\n  width: 3\nresult: !ref {expression}\n"
    )
    assert document.get("result") == value


def test_numbers_in_exponent_notation_are_numbers(read):
    assert read("lr: 1e-5\nsmall: 1e-06\n").content == {"lr": 1e-5, "small": 1e-6}


def test_a_config_record_becomes_its_content(read):
    document = read("p: !new:omegaconf.DictConfig\n  content:\n    sigma_min: 1e-06\n")
    assert document.get("p") == {"sigma_min": 1e-6}


def test_anchors_are_followed(read):
    assert read("a: &x {k: 1}\nb: *x\n").get("b") == {"k": 1}


def test_seed_calls_are_skipped(read):
    assert read("__seed: !apply:torch.manual_seed [1986]\na: 1\n").content == {"__seed": None, "a": 1}


def test_a_replaced_key_reaches_every_reference(read):
    document = read("path: ''\npart: !new:some.Part\n  where: !ref <path>\n", replace={"path": "here", "other": 1})
    assert document.get("part").arguments == {"where": "here"}
    assert "other" not in document


def test_a_class_is_kept_as_a_name(read):
    call = read("a: 1\npart: !name:os.system\n  command: touch x\n").get("part")
    assert isinstance(call, Call)
    assert (call.target, call.line, call.partial) == ("os.system", 2, True)


@pytest.mark.parametrize(
    ("tag", "shown"),
    [
        ("!apply:os.system [touch hacked]", "!apply:os.system"),
        ("!new:os.system [touch hacked]", "!new:os.system"),
        ("!!python/object/apply:os.system [touch hacked]", "python/object/apply:os.system"),
        ("!!python/name:os.system", "python/name:os.system"),
    ],
)
def test_a_tag_that_would_run_code_is_refused_with_its_line(read, tag, shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        read(f"a: 1\nb: {tag}\n")
    assert caught.value.where == f"{tmp_path / 'cosyvoice2.yaml'}:2"
    assert shown in caught.value.value
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("tag", "shown"),
    [
        ("!apply:mylab.optim.schedule {warmup: 10}", "!apply:mylab.optim.schedule"),
        ("!!python/tuple [1]", "!!python/tuple"),
        ("!include:other.yaml", "!include:other.yaml"),
        ("!module:mylab.losses", "!module:mylab.losses"),
        ("!tuple (1, 2)", "!tuple"),
        ("!new:some.Part [1]", "some.Part"),
        ("!ref [a]", "!ref of a list"),
    ],
)
def test_a_tag_that_cannot_be_read_matters_only_where_its_value_is_needed(read, tag, shown, tmp_path):
    document = read(f"a: 1\nb: {tag}\nc: !new:some.Part\n  width: !ref <a>\n  other: {{deep: !ref <b>}}\n")
    assert document.get("a") == 1
    for needs_it in (document.get, document.find):
        for key in ("b", "c"):
            error = error_of(needs_it, key)
            assert error.where == f"{tmp_path / 'cosyvoice2.yaml'}:2"
            assert shown in error.value
    assert document.find("c.width") == 1


@pytest.mark.parametrize(
    "expression",
    [
        "<missing>",
        "<nested.missing>",
        "<a> ** 99999999",
        "<a> / 0",
        "__import__('os').getcwd()",
        "<nested> * 2",
        "<a> *",
        "",
    ],
)
def test_a_bad_reference_is_reported_with_file_line_and_text(read, expression, tmp_path):
    document = read(f'a: 1\nnested: {{b: 2}}\nbad: !ref "{expression}"\n')
    with pytest.raises(UserError) as caught:
        document.get("bad")
    assert (caught.value.where, caught.value.value) == (f"{tmp_path / 'cosyvoice2.yaml'}:3", expression)
    assert document.get("a") == 1


def test_circular_references_are_reported(read, tmp_path):
    with pytest.raises(UserError) as caught:
        read("a: !ref <b>\nb: !ref <a>\n").get("a")
    assert caught.value.where == str(tmp_path / "cosyvoice2.yaml")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a: [1, 2\n", "line 2, column 1"),
        ("- 1\n", "list"),
        ("", "nothing"),
        ("# only a comment\n", "nothing"),
        ("just words\n", "str"),
        ("a: \x01", "position 3"),
    ],
)
def test_what_is_not_a_model_yaml_is_reported(read, text, shown, tmp_path):
    with pytest.raises(UserError) as caught:
        read(text)
    assert caught.value.where.startswith(str(tmp_path / "cosyvoice2.yaml"))
    assert shown in str(caught.value.value)


def test_a_missing_yaml_is_reported(tmp_path):
    with pytest.raises(UserError) as caught:
        read_yaml(tmp_path / "none.yaml")
    assert caught.value.where == str(tmp_path / "none.yaml")
