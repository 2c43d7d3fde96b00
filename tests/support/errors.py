"""The error of a call, for tests that assert on its parts."""

from collections.abc import Callable
from typing import Any

import pytest

from tasks.errors import UserError


def error_of(call: Callable[..., Any], *arguments: Any, **named: Any) -> UserError:
    """What a call that has to fail raises."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **named)
    return caught.value
