"""Fixtures of this folder."""

from tests.support.exports import exports

__all__ = ["exports"]
