"""Fixtures of this folder."""

from tests.support.exports import exports
from tests.support.torchscript_jobs import exported_encoder

__all__ = ["exported_encoder", "exports"]
