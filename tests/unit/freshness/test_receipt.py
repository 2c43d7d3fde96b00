"""A receipt is believed only if it has exactly the form that a step writes: anything else is no receipt."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.freshness.receipt import Ingredients, Receipt

DIGEST = "0" * 64
INGREDIENTS = Ingredients(
    "a:run", {"opset": 18}, {"weights": DIGEST}, {"torch": "2.13.0"}, {"a": "", "b": f"{DIGEST} {DIGEST}"}
)
OUTPUTS = {"flow.onnx": {"sha256": DIGEST, "size": 3}, "folder/config.json": {"sha256": DIGEST, "size": 0}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "flow.onnx.receipt.json"
    Receipt("export_onnx:m/flow.fp32", INGREDIENTS, OUTPUTS, {"bytes": 3}, {"seconds": 1.0}).write(path)
    return path


def change(path: Path, keys: str, value: Any) -> None:
    """Put a value at a dotted place of the receipt; `...` removes what is there."""
    content = json.loads(path.read_text())
    *parents, last = keys.split("/")
    inner = content
    for key in parents:
        inner = inner[key]
    inner[last] = value
    if value is ...:
        del inner[last]
    path.write_text(json.dumps(content))


def test_what_was_written_is_read(path: Path) -> None:
    receipt = Receipt.read(path, [path.with_name("flow.onnx"), path.parent / "folder" / "config.json"])
    assert receipt
    assert receipt.ingredients == INGREDIENTS
    assert receipt.outputs == OUTPUTS


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ("outputs", {}),
        ("outputs", []),
        ("outputs", None),
        ("outputs/flow.onnx", ...),
        ("outputs/flow.onnx", [DIGEST, 3]),
        ("outputs/flow.onnx/size", "3"),
        ("outputs/flow.onnx/size", None),
        ("outputs/flow.onnx/size", True),
        ("outputs/flow.onnx/size", -1),
        ("outputs/flow.onnx/size", 3.0),
        ("outputs/flow.onnx/size", ...),
        ("outputs/flow.onnx/sha256", "0"),
        ("outputs/flow.onnx/sha256", 0),
        ("outputs/flow.onnx/more", 1),
        ("outputs/..", {"sha256": DIGEST, "size": 3}),
        ("ingredients", None),
        ("ingredients", []),
        ("ingredients/params", []),
        ("ingredients/params/opset", 19),
        ("ingredients/inputs", [DIGEST]),
        ("ingredients/inputs/weights", None),
        ("ingredients/libraries/torch", {"version": "2.13.0"}),
        ("ingredients/code", None),
        ("ingredients/code/a", 1),
        ("ingredients/more", 1),
        ("ingredients/action", ["a:run"]),
        ("results", []),
        ("execution", None),
        ("step", None),
        ("key", None),
        ("key", DIGEST),
        ("more", 1),
    ],
)
def test_any_other_form_is_no_receipt(path: Path, keys: str, value: Any) -> None:
    change(path, keys, value)
    assert Receipt.read(path, [path.with_name("flow.onnx")]) is None


@pytest.mark.parametrize(
    "name",
    ["../flow.onnx", "/etc/passwd", "a/../../b", "", "a\0b", "a" * 256, "流" * 86, "流.\ud800", "a/" * 2100 + "a"],
)
def test_a_receipt_describes_only_files_below_it(path: Path, name: str) -> None:
    content = json.loads(path.read_text())
    content["outputs"][name] = {"sha256": DIGEST, "size": 3}
    path.write_text(json.dumps(content))
    assert Receipt.read(path) is None


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "null", "[]", "\0", "{", "1e999", ""])
def test_what_is_no_json_object_is_no_receipt(path: Path, text: str) -> None:
    path.write_text(text)
    assert Receipt.read(path) is None


def test_a_folder_is_no_receipt(path: Path) -> None:
    path.unlink()
    path.mkdir()
    assert Receipt.read(path) is None
