"""Words for errors: the reason of another library's exception, and what to install."""

import pytest

from tasks.errors import MAX_NAME, MAX_QUOTED, ConfigError, UserError, listed, reason, require_library, shortened_name


def test_the_reason_of_an_exception_is_its_first_line() -> None:
    assert reason(ValueError("\n  bad shape \nat line 3")) == "bad shape"


def test_an_exception_without_a_message_is_named_by_its_class() -> None:
    assert reason(RuntimeError()) == "RuntimeError"
    assert reason(ValueError(" \n")) == "ValueError"


def test_a_library_that_is_there_is_imported() -> None:
    assert require_library("json", extra="llm", why="it is read by it").loads("1") == 1


def test_a_library_that_is_missing_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(UserError, match=r"no_such_library: .*pip install 'voxkiln\[llm\]'"):
        require_library("no_such_library", extra="llm", why="the tokenizer is read by it")


@pytest.mark.parametrize("part", ["what", "where", "value", "remedy"])
def test_a_message_quotes_a_bounded_amount_of_each_part(part: str) -> None:
    error = UserError(**{"what": "is wrong", part: "start" + "k" * 10**6 + "end"})
    assert len(str(error)) < MAX_QUOTED + 100
    assert all(piece in str(error) for piece in ("start", "end", f"{10**6 + 8 - MAX_QUOTED} characters left out"))


VALUES: list[object] = [["k" * 10**6] * 1000, dict.fromkeys(range(10**5)), b"\0" * 10**6, 10**5000, {10**5000}]


@pytest.mark.parametrize("value", VALUES, ids=["list", "dict", "bytes", "int", "set"])
def test_a_value_of_any_type_is_quoted_in_part(value: object) -> None:
    assert len(str(UserError("is wrong", value=value))) < MAX_QUOTED + 100


def test_a_value_nested_deeply_is_quoted_in_part() -> None:
    value: list[object] = []
    for _ in range(10**5):
        value = [value]
    assert str(UserError("is wrong", value=value)) == "is wrong (got [[[[[[[...]]]]]]])."


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert str(UserError("no such name", value="\x1b[2J\0\u202e模型")) == r"no such name (got \x1b[2J\x00\u202e模型)."


def test_a_long_name_leaves_room_for_the_others_of_a_list() -> None:
    assert len(shortened_name("k" * 10**6)) < MAX_NAME + 100


def test_many_problems_are_counted() -> None:
    error = ConfigError([f"{n}" + "k" * 10**5 for n in range(1000)])
    assert str(error).startswith("1000 problems:\n  0kkk")
    assert str(error).endswith("and 950 more")
    assert len(str(error)) < 51 * (MAX_QUOTED + 100)


def test_a_list_ends_with_how_many_more_there_are() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
    assert listed(["one clause", "another", "x"], 2, separator="; ") == "one clause; another and 1 more"
    assert len(listed(["n" * 10**6] * 100)) < 3000
