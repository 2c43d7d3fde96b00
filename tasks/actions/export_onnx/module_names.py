"""Maps each ONNX node to the PyTorch module it came from; stored in node metadata and used in error messages."""

import ast
from collections.abc import Iterable, Mapping

MODULE = "voxkiln.module"  # in a node's metadata
SCOPES = "pkg.torch.onnx.name_scopes"  # where PyTorch's newer exporter writes the modules around an operation
WRAPPER = "module"  # what the exporters see around the module itself


def module_of(notes: Mapping[str, str], name: str) -> str:
    """The innermost module around an operation, ``mid_blocks.0.attn1``; empty if unknown.

    Args:
        notes: the node's metadata.
        name: the node's name; the older exporter writes ``/mid_blocks.0/attn1/MatMul``.
    """
    if MODULE in notes:
        return notes[MODULE]
    # the last of either is the operation itself; the exporter's own placeholders begin with an underscore
    scopes = [scope for scope in ast.literal_eval(notes.get(SCOPES, "[]"))[:-1] if scope and scope[0] != "_"]
    found = scopes[-1] if scopes else _joined(part for part in name.split("/")[:-1] if part)
    return "" if found == WRAPPER else found.removeprefix(f"{WRAPPER}.")


def _joined(parts: Iterable[str]) -> str:
    """Names of nested modules as one; an item of a list names its list again: mid_blocks.0 / mid_blocks.0.1 / ff."""
    path: list[str] = []
    for part in parts:
        if path and part.startswith(f"{path[-1]}."):
            path.pop()
        path.append(part)
    return ".".join(path)
