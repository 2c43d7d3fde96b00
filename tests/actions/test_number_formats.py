"""The table of number formats agrees with the libraries whose names it has."""

import onnx
import onnx_ir as ir
import pytest

from tasks.actions.export_onnx.low_precision_formats import LOW_PRECISIONS
from tasks.runtimes.base import torch_dtype
from tasks.settings.number_formats import BY_ONNX, FORMATS, NumberFormat
from tests.support.tensorrt_double import VERSIONS
from tests.support.tensorrt_simulation import Machine

EVERY = pytest.mark.parametrize("row", FORMATS, ids=[row.name for row in FORMATS])


@EVERY
def test_pytorch_has_the_dtype_with_this_size_and_kind(row: NumberFormat) -> None:
    dtype = torch_dtype(row)
    assert (dtype.itemsize, dtype.is_floating_point) == (row.bytes, row.is_float)


@EVERY
def test_onnx_numbers_the_type_that_numpy_calls_by_this_name(row: NumberFormat) -> None:
    assert onnx.helper.tensor_dtype_to_np_dtype(row.onnx).name == row.torch
    assert ir.DataType(row.onnx).itemsize == row.bytes


@EVERY
def test_operators_schemas_have_the_type_that_onnx_runtime_has(row: NumberFormat) -> None:
    assert row.onnxruntime in onnx.defs.get_schema("Identity", 16).inputs[0].types


@EVERY
@pytest.mark.parametrize("version", VERSIONS)
def test_tensorrt_has_the_member_where_one_is_named(row: NumberFormat, version: str) -> None:
    assert not row.tensorrt or hasattr(Machine(version).trt.DataType, row.tensorrt)


def test_every_name_is_of_one_row_only() -> None:
    for column in ("name", "torch", "onnx", "onnxruntime"):
        assert len({getattr(row, column) for row in FORMATS}) == len(FORMATS)
    assert len(BY_ONNX) == len(FORMATS)


@pytest.mark.parametrize(("name", "largest"), [("fp16", 65504.0), ("bf16", 3.3895313892515355e38)])
def test_a_low_precision_has_its_largest_number_and_masks_of_half_of_it(name: str, largest: float) -> None:
    low = LOW_PRECISIONS[name]
    assert (low.largest, low.mask_value) == (largest, -largest / 2)
