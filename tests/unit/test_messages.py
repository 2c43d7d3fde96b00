"""The sentences that users read: changed on purpose only, and read in one file."""

from tests.support.messages import FILE, messages


def test_messages_are_those_of_the_snapshot() -> None:
    """After a change of wording: python -m tests.support.messages, and read the difference."""
    assert messages() == FILE.read_text(encoding="utf-8")
