"""Words for errors: the reason of another library's exception, and what to install."""

import pytest

from tasks.errors import UserError, reason, require_library


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
