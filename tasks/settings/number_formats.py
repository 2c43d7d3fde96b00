"""The number formats of tensors, under the names that PyTorch, ONNX, ONNX Runtime and TensorRT have for each.

The only table of formats: a further one is one more row. What a conversion to a format of 16 bits needs beside it is in
tasks/actions/export_onnx/low_precision_formats.py.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class NumberFormat:
    """One format.

    Attributes:
        name: as the setting `precision` has it; in capitals, as TensorRT's documentation has it.
        torch: attribute of `torch`; numpy and ml_dtypes have the same name.
        torchscript: number of the dtype in the graph of a TorchScript file.
        onnx: number of the element type in `onnx.TensorProto.DataType`.
        onnxruntime: type of a session's input or output.
        tensorrt: member of `tensorrt.DataType`; empty if it has none.
        bytes: of one element.
        is_float: whether it is a floating-point format.
    """

    name: str
    torch: str
    torchscript: int
    onnx: int
    onnxruntime: str
    tensorrt: str
    bytes: int
    is_float: bool


FORMATS = (
    NumberFormat("fp32", "float32", 6, 1, "tensor(float)", "FLOAT", 4, True),
    NumberFormat("fp16", "float16", 5, 10, "tensor(float16)", "HALF", 2, True),
    NumberFormat("bf16", "bfloat16", 15, 16, "tensor(bfloat16)", "BF16", 2, True),
    NumberFormat("fp64", "float64", 7, 11, "tensor(double)", "", 8, True),
    NumberFormat("int8", "int8", 1, 3, "tensor(int8)", "INT8", 1, False),
    NumberFormat("uint8", "uint8", 0, 2, "tensor(uint8)", "UINT8", 1, False),
    NumberFormat("int32", "int32", 3, 6, "tensor(int32)", "INT32", 4, False),
    NumberFormat("int64", "int64", 4, 7, "tensor(int64)", "INT64", 8, False),
    NumberFormat("bool", "bool", 11, 9, "tensor(bool)", "BOOL", 1, False),
)
PRECISIONS = tuple(row.name for row in FORMATS if row.is_float and row.bytes <= 4)  # of artifacts
BY_NAME = {row.name: row for row in FORMATS}
BY_TORCH = {row.torch: row for row in FORMATS}
BY_TORCHSCRIPT = {row.torchscript: row for row in FORMATS}
BY_ONNX = {row.onnx: row for row in FORMATS}
BY_ONNXRUNTIME = {row.onnxruntime: row for row in FORMATS}
BY_TENSORRT = {row.tensorrt: row for row in FORMATS if row.tensorrt}
