"""Reads safetensors files: a header of names, dtypes and shapes, then the bytes of the tensors. Data, no code."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tasks.errors import UserError, reason
from tasks.user_files import DOWNLOAD_AGAIN


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a file by name, memory-mapped.

    Raises:
        UserError: it is damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        cause = reason(error)
    raise UserError("is not a whole safetensors file", where=path, value=cause, remedy=DOWNLOAD_AGAIN)
