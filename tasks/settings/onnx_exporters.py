"""Which opsets each of PyTorch's two ONNX exporters can write, and which exporter is taken when none is named."""

EXPORTER_OPSETS = {"dynamo": range(18, 24), "torchscript": range(15, 21)}
OPSETS = range(15, 24)  # what at least one of them can write


def exporter_for(opset: int) -> str:
    """The default, dynamo (fewer nodes, less memory, refuses branches on values), unless it cannot write `opset`.

    Raises:
        ValueError: neither can.
    """
    for name, opsets in EXPORTER_OPSETS.items():
        if opset in opsets:
            return name
    raise ValueError(f"no exporter writes opset {opset}")


def obstacle(exporter: str, opset: int) -> tuple[str, str] | None:
    """Why `exporter` cannot write `opset` and what to do instead, or None if it can."""
    able = EXPORTER_OPSETS[exporter]
    if opset in able:
        return None
    other = exporter_for(opset) if opset in OPSETS else ""
    remedy = f"Set onnx.exporter={other}" if other else "Choose another opset"
    return f"the {exporter} exporter writes opsets {able.start} to {able.stop - 1} only", remedy
