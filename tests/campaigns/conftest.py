"""Fixtures of the campaigns."""

from tests.support.exports import exports

__all__ = ["exports"]
