"""Which ONNX operators TensorRT's parser supports, and in which number formats.

The facts are in operator_table.json, keyed by TensorRT version. So far there is one table, the oldest of the 10.x line;
later versions support more, so an operator that is missing here may still be supported. INT8, FP8 and INT4 go through
QuantizeLinear and DequantizeLinear only.
"""

import json
from dataclasses import dataclass
from pathlib import Path

OLDEST = "10.1"


@dataclass(frozen=True)
class OperatorTable:
    """The operators of one version of TensorRT.

    Attributes:
        opsets: the versions of ONNX's standard operators that the table covers.
        formats: supported operator -> its number formats, as "FP16".
    """

    version: str
    opsets: range
    formats: dict[str, frozenset[str]]


def load_table(version: str = OLDEST) -> OperatorTable:
    """The table of one TensorRT version that operator_table.json contains."""
    table = json.loads(Path(__file__).with_suffix(".json").read_text())[version]
    first, last = table["opsets"]
    formats = {name: frozenset(key.split()) for key, names in table["supported"].items() for name in names}
    return OperatorTable(version, range(first, last + 1), formats)
